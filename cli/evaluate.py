"""`rollhouse eval`: a policy on an environment's held-out tasks, or on the Berkeley Function-Calling Leaderboard."""

from typing import TYPE_CHECKING, Any

import typer

from . import bfcl, compare
from .command import Application, DryRunOption, settings_command
from .common import (
    Format,
    FormatOption,
    StoreOption,
    console,
    make_store,
    print_config,
    print_next,
    print_rows,
    progress,
)

if TYPE_CHECKING:
    from ..eval.config import EvaluationConfig
    from ..eval.summary import EvalSummary


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = Application(no_args_is_help=True, help="Evaluate a policy; every case is a row of `evaluations`.")
    noun.command("env", cls=settings_command(_model))(env)
    bfcl.register(noun)
    compare.register(noun)
    app.add_typer(noun, name="eval")


def _model() -> "type[EvaluationConfig]":
    from ..eval.config import EvaluationConfig

    return EvaluationConfig


def env(
    ctx: typer.Context,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Evaluate a policy on tasks of one or several environments: pass rate with its error, pass@k, by category and environment.

    Example: `rollhouse eval env --env workplace-mini --engine vllm --model sft-demo --mode sampled --num-repeats 4`
    """
    from ..eval.job import check_evaluation, run_evaluation

    config: EvaluationConfig = ctx.obj
    _, tasks = check_evaluation(config)
    if dry_run:
        _refuse_other(config, store)
        print_config(config, {"tasks": len(tasks), "rollouts": len(tasks) * config.num_repeats}, format)
        return
    place = make_store(store)
    from ..train.checkpoints import with_model

    config = with_model(place, config)
    with progress() as bar:
        line = bar.add_task("evaluate", total=None, note="", visible=False)

        def on_start(planned: int) -> None:
            starting = "starting the engine" if config.policy.engine in ("vllm", "torch") else ""
            bar.update(line, total=planned, note=starting, visible=True)

        def on_done(rollout: Any, so_far: Any) -> None:
            bar.update(line, completed=so_far.skipped + so_far.collected, note=f"{so_far.passed} passed")

        run_id, summary = run_evaluation(place, config, on_start=on_start, on_done=on_done)
        bar.update(line, completed=summary.n)
    names = ", ".join(spec.name for spec in config.environment.specs())
    title = f"{names}, {config.environment.split}, {config.mode}"
    print_rows(environment_rows(run_id, summary), format, title)
    if format is Format.table:
        ks = ", ".join(f"pass@{k} {value:.3f}" for k, value in summary.pass_at_k.items())
        console().print(f"{ks}; mean reward {summary.mean_reward:.3f}; {summary.n_tasks} tasks")
        print_next(f"report {run_id} --out report.html", store)


def _refuse_other(config: "EvaluationConfig", location: str | None) -> None:
    """Refuses a run of another configuration, where there is a store."""
    from ..eval.job import refuse_other_evaluation
    from ..store.lance_store import LanceStore, store_location
    from ..train.checkpoints import with_model

    place = LanceStore(store_location(location))
    if place.has_table("rollouts"):
        refuse_other_evaluation(place, with_model(place, config))


def environment_rows(run_id: str, summary: "EvalSummary") -> list[dict[str, Any]]:
    """One row per category, per environment where there are several, and one for all; `stderr` is over tasks and known for all only."""
    scores = {**summary.by_category, **{f"all of {name}": score for name, score in summary.by_environment.items()}}
    rows = [
        {"run_id": run_id, "category": name, "passed": score.correct, "samples": score.total, "pass_rate": score.accuracy}
        for name, score in scores.items()
    ]  # fmt: skip
    passed = sum(score.correct for score in summary.by_category.values())
    total = {
        "run_id": run_id,
        "category": "all",
        "passed": passed,
        "samples": summary.n,
        "pass_rate": summary.pass_rate,
    }
    return [*({**row, "stderr": None} for row in rows), {**total, "stderr": summary.stderr}]
