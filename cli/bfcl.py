"""`rollhouse eval bfcl`: the Berkeley Function-Calling Leaderboard, for one policy or before and after a training run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..base.errors import ConfigError
from .command import DryRunOption, settings_command
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
    from ..eval.bfcl import BfclSummary
    from ..eval.config import BfclConfig
    from ..store.lance_store import LanceStore


def register(noun: typer.Typer) -> None:
    """Adds the command to `eval`."""
    noun.command("bfcl", cls=settings_command(_model))(bfcl)


def _model() -> "type[BfclConfig]":
    from ..eval.config import BfclConfig

    return BfclConfig


BeforeOption = Annotated[
    bool,
    typer.Option(
        "--before",
        help="Evaluate the model that the training run --run started from, in the run RUN-bfcl-before.",
        rich_help_panel="Run",
    ),
]
AfterOption = Annotated[
    bool,
    typer.Option(
        "--after",
        help="Evaluate the training run's last checkpoint, in the run RUN-bfcl-after; with --before, compare the two.",
        rich_help_panel="Run",
    ),
]


def bfcl(
    ctx: typer.Context,
    before: BeforeOption = False,
    after: AfterOption = False,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Evaluate a policy on BFCL with bfcl-eval's own checkers.

    Example: `rollhouse eval bfcl --category live --limit 20 --engine vllm --model sft-demo`

    Example: `rollhouse eval bfcl --run grpo-demo --before --after --category simple_python`
    """
    from ..eval.bfcl.categories import categories_named
    from ..eval.job import check_bfcl

    config: BfclConfig = ctx.obj
    categories_named(config.categories, config.mode)  # a wrong name is reported before a model is looked up
    if dry_run:
        if not (before or after):
            check_bfcl(config)
        print_config(config, {}, format)
        return
    place = make_store(store)
    found = []
    for stage in _stages(place, config, before, after):
        if before or after:
            _refuse_other_stage(place, stage)
        from ..train.checkpoints import with_model

        found.append(_evaluate(place, with_model(place, stage)))
    if format is not Format.table:
        print_rows([row for run_id, summary in found for row in bfcl_rows(run_id, summary)], format)
        return
    for run_id, summary in found:
        print_summary(run_id, summary, config.mode)
    print_missing(found[-1][1])  # both sides have the same categories
    if len(found) == 2:
        from ..eval.compare import compare_runs
        from .compare import print_comparison

        print_comparison(compare_runs(place, found[0][0], found[1][0]), flips=10)
    print_next(f"report {' '.join(run_id for run_id, _ in found)} --out report.html", store)


def _stages(store: "LanceStore", config: "BfclConfig", before: bool, after: bool) -> "list[BfclConfig]":
    """The configuration of each evaluation: one, or one for the model before and after a training run."""
    if not (before or after):
        return [config]
    policy = config.policy
    if config.run is None or policy.model_name is not None or policy.engine.startswith("openai:"):
        raise ConfigError(
            "--before and --after evaluate the models of a training run.",
            "Name the run with --run, without --model, and an engine that loads models.",
        )
    from ..train.checkpoints import models_of

    stages = zip(("before", "after"), (before, after), models_of(store, config.run), strict=True)
    return [
        config.model_copy(
            update={
                "run": f"{config.run}-bfcl-{stage}",
                "policy": policy.model_copy(update={"model_name": str(folder)}),
            }
        )
        for stage, wanted, folder in stages
        if wanted
    ]


def _refuse_other_stage(store: "LanceStore", config: "BfclConfig") -> None:
    # The names of the two runs are ours, so "another name" is no way out.
    from ..eval.job import refuse_other_bfcl

    try:
        refuse_other_bfcl(store, config)
    except ConfigError as error:
        raise ConfigError(
            error.message,
            "Use the same settings; or evaluate the two models one by one (--model, --run NAME) and compare them with `rollhouse eval compare`.",
        ) from error


def _evaluate(store: "LanceStore", config: "BfclConfig") -> tuple[str, "BfclSummary"]:
    from ..eval.job import run_bfcl

    with progress() as bar:
        line = bar.add_task(config.run or "bfcl", total=None, note="", visible=False)
        return run_bfcl(
            store,
            config,
            on_start=lambda: bar.update(line, note="starting", visible=True),
            on_cases=lambda count: bar.update(line, total=count, note=""),
            on_done=lambda: bar.advance(line),
        )


def print_summary(run_id: str, summary: "BfclSummary", mode: str) -> None:
    """For people: accuracies, and those of the leaderboard's scores that can be computed."""
    titles = {"fc": "function calling", "prompt": "prompt"}
    print_rows(bfcl_rows(run_id, summary), Format.table, f"BFCL, {titles[mode]}")
    if summary.sessions:
        ended = ", ".join(f"{count} {how}" for how, count in summary.sessions.items())
        console().print(f"sessions that filled a memory: {ended}", markup=False)
    given = [
        {"score": score.name, "value": score.value, "cases": score.cases}
        for score in summary.leaderboard
        if score.value is not None
    ]
    if given:
        print_rows(given, Format.table, "By the leaderboard's formulas, over the cases that were run")


def print_missing(summary: "BfclSummary") -> None:
    """For people: what was not run, and which scores are missing because of it."""
    out = console().print
    from ..eval.bfcl.categories import NOT_RUN

    if summary.not_run:
        out(f"not run: {', '.join(summary.not_run)}", markup=False)
    for name, why in NOT_RUN.items():
        out(f"{name} cannot be run: {why}", markup=False)
    lacking = [score.name for score in summary.leaderboard if score.name.endswith("overall") and score.value is None]
    if lacking:
        out(f"no {' and no '.join(lacking)} BFCL score: what was not run is not counted as zero", markup=False)


def bfcl_rows(run_id: str, summary: "BfclSummary") -> list[dict[str, Any]]:
    """One row per category."""
    return [
        {
            "run_id": run_id,
            "category": name,
            "correct": score.correct,
            "total": score.total,
            "accuracy": score.accuracy,
            "prompt_too_long": score.errors.get("prompt_too_long", 0),
            "broken_calls": score.broken_calls,
        }
        for name, score in summary.categories.items()
    ]
