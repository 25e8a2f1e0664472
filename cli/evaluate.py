"""`rollhouse eval`: a policy on an environment's held-out tasks, or on the Berkeley Function-Calling Leaderboard."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import bfcl, compare
from .chat import (
    DataOption,
    ParserOption,
    TemplateOption,
    TensorOption,
    ThinkingOption,
    chat_options,
)
from .common import (
    Format,
    FormatOption,
    StoreOption,
    TasksSplitOption,
    console,
    make_store,
    print_rows,
    progress,
)
from .policy import LengthOption, ModelOption, TokensOption, policy_choice

if TYPE_CHECKING:
    from ..eval.summary import EvalSummary


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = typer.Typer(no_args_is_help=True, help="Evaluate a policy; every case is a row of `evaluations`.")
    noun.command("env")(env)
    bfcl.register(noun)
    compare.register(noun)
    app.add_typer(noun, name="eval")


def env(
    env: Annotated[str, typer.Option("--env", help="Environment: workplace or workplace-mini.")],
    engine: Annotated[str, typer.Option("--engine", help="scripted, vllm, torch or openai:URL.")] = "scripted",
    model: ModelOption = None,
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks file (JSON lines).")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    tasks_split: TasksSplitOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many tasks.")] = None,
    mode: Annotated[str, typer.Option(help="greedy or sampled.")] = "greedy",
    samples: Annotated[int, typer.Option(min=1, help="Rollouts of each task; more than one needs --mode sampled.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="Of mode sampled [default: 1].")] = None,
    seed: Annotated[int, typer.Option(help="Of generated tasks, the script's mistakes and sampling.")] = 0,
    max_tokens: TokensOption = 256,
    max_turns: Annotated[int, typer.Option(min=1, help="Limit on model calls a rollout.")] = 6,
    max_model_len: LengthOption = None,
    chat_template: TemplateOption = None,
    enable_thinking: ThinkingOption = None,
    tool_parser: ParserOption = "hermes",
    tensor_parallel_size: TensorOption = 1,
    data_parallel_size: DataOption = 1,
    mistake_rate: Annotated[float, typer.Option(min=0, max=1, help="How often the scripted policy stops before its last call.")] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Rollouts in flight.")] = 64,
    run: Annotated[str | None, typer.Option("--run", help="The run's name; one that exists is resumed.")] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Evaluate a policy on tasks of an environment: pass rate with its error, pass@k, by category.

    Example: `rollhouse eval env --env workplace-mini --engine vllm --model sft-demo --mode sampled --samples 4`.
    """
    from ..eval.environment import check_mode
    from ..eval.job import EnvironmentJob, run_environment_job
    from ..policies.types import Sampling

    place = make_store(store)
    if temperature is not None:
        check_mode(mode, samples, Sampling(temperature=temperature))
    of_sampled = temperature or 1.0  # greedy has none of its own
    job = EnvironmentJob(
        env, tables, tasks, split, limit, mode, samples, of_sampled, max_tokens, max_turns, seed, tasks_split
    )
    chat = chat_options(chat_template, enable_thinking, tool_parser)
    sizes = tensor_parallel_size, data_parallel_size
    choice = policy_choice(place, engine, model, max_model_len, chat, sizes, mistake_rate, seed)
    with progress() as bar:
        line = bar.add_task("evaluate", total=None, note="", visible=False)

        def on_start(planned: int) -> None:
            starting = "starting the engine" if engine in ("vllm", "torch") else ""
            bar.update(line, total=planned, note=starting, visible=True)

        def on_done(rollout: Any, so_far: Any) -> None:
            bar.update(line, completed=so_far.skipped + so_far.collected, note=f"{so_far.passed} passed")

        run_id, summary = run_environment_job(
            place, job, choice, run, concurrency=concurrency, on_start=on_start, on_done=on_done
        )
        bar.update(line, completed=summary.n)
    print_rows(environment_rows(run_id, summary), format, f"{env}, {split}, {mode}")
    if format is Format.table:
        ks = ", ".join(f"pass@{k} {value:.3f}" for k, value in summary.pass_at_k.items())
        console().print(f"{ks}; mean reward {summary.mean_reward:.3f}; {summary.n_tasks} tasks")
        console().print(f"next: rollhouse report {run_id} --out report.html", markup=False)


def environment_rows(run_id: str, summary: "EvalSummary") -> list[dict[str, Any]]:
    """One row a category and one for all; `stderr` is over tasks and only known for all."""
    rows = [
        {"run_id": run_id, "category": name, "passed": score.correct, "samples": score.total, "pass_rate": score.accuracy}
        for name, score in summary.by_category.items()
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
