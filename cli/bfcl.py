"""`rollhouse eval bfcl`: the Berkeley Function-Calling Leaderboard, for one policy or before and after a training run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .chat import (
    DataOption,
    ParserOption,
    TemplateOption,
    TensorOption,
    ThinkingOption,
    chat_options,
)
from .common import Format, FormatOption, StoreOption, console, make_store, print_rows, progress
from .policy import LengthOption, ModelOption, TokensOption, policy_choice

if TYPE_CHECKING:
    from ..eval.bfcl import BfclSummary
    from ..eval.job import BfclJob, PolicyChoice
    from ..store.lance_store import LanceStore


def register(noun: typer.Typer) -> None:
    """Adds the command to `eval`."""
    noun.command("bfcl")(bfcl)


def bfcl(
    category: Annotated[list[str] | None, typer.Option("--category", help="Category or group (non_live, live, single_turn, multi_turn, memory, all); may be repeated [default: single_turn].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many cases of each category, always the same ones [default: all].")] = None,
    mode: Annotated[str, typer.Option(help="fc: functions are tools; prompt: they stand in the system prompt, calls in the text.")] = "fc",
    engine: Annotated[str, typer.Option("--engine", help="vllm, torch or openai:URL.")] = "vllm",
    model: ModelOption = None,
    max_tokens: TokensOption = 256,
    max_model_len: LengthOption = None,
    chat_template: TemplateOption = None,
    enable_thinking: ThinkingOption = None,
    tool_parser: ParserOption = "hermes",
    tensor_parallel_size: TensorOption = 1,
    data_parallel_size: DataOption = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Cases in flight.")] = 32,
    run: Annotated[str | None, typer.Option("--run", help="The run's name, one that exists is resumed; with --before or --after, the training run.")] = None,
    before: Annotated[bool, typer.Option("--before", help="Evaluate the model that the training run --run started from.")] = False,
    after: Annotated[bool, typer.Option("--after", help="Evaluate the run's last checkpoint; with --before, compare the two.")] = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Evaluate a policy on BFCL, judged by bfcl-eval's own checkers.

    Examples: `rollhouse eval bfcl --category live --limit 20 --engine vllm --model sft-demo`;
    `rollhouse eval bfcl --run grpo-demo --before --after --category simple_python`.
    """
    from ..eval.bfcl.categories import categories_named
    from ..eval.job import BfclJob

    place = make_store(store)
    categories_named(category or ["single_turn"], mode)  # a wrong name is told before a model is looked for
    job = BfclJob(tuple(category or ["single_turn"]), limit, max_tokens, mode)
    chat = chat_options(chat_template, enable_thinking, tool_parser)
    sizes = tensor_parallel_size, data_parallel_size
    found = []
    for name, named in _stages(place, engine, model, run, before, after):
        choice = policy_choice(place, engine, named, max_model_len, chat, sizes)
        if before or after:
            _refuse_other_stage(place, job, choice, str(name))
        found.append(_evaluate(place, job, choice, name, concurrency))
    if format is not Format.table:
        print_rows([row for run_id, summary in found for row in bfcl_rows(run_id, summary)], format)
        return
    for run_id, summary in found:
        print_summary(run_id, summary, mode)
    print_missing(found[-1][1])  # the same categories were asked for on both sides
    if len(found) == 2:
        from ..eval.compare import compare_runs
        from .compare import print_comparison

        print_comparison(compare_runs(place, found[0][0], found[1][0]), flips=10)
    console().print(f"next: rollhouse report {' '.join(run_id for run_id, _ in found)} --out report.html", markup=False)


def _stages(
    store: "LanceStore", engine: str, model: str | None, run: str | None, before: bool, after: bool
) -> list[tuple[str | None, str | None]]:
    """(name of the evaluation's run, model) of each policy to evaluate."""
    if not (before or after):
        return [(run, model)]
    from ..base.errors import ConfigError

    if run is None or model is not None or engine.startswith("openai:"):
        raise ConfigError(
            "--before and --after evaluate the models of a training run.",
            "Name the run with --run, without --model, and an engine that loads models.",
        )
    from ..train.checkpoints import models_of

    wanted = zip(("before", "after"), (before, after), models_of(store, run), strict=True)
    return [(f"{run}-bfcl-{stage}", str(folder)) for stage, asked, folder in wanted if asked]


def _refuse_other_stage(store: "LanceStore", job: "BfclJob", choice: "PolicyChoice", name: str) -> None:
    # The names of the two runs are ours, so "another name" is no way out.
    from ..base.errors import ConfigError
    from ..collect.plan import refuse_other_config
    from ..eval.job import bfcl_config

    try:
        refuse_other_config(store, name, bfcl_config(job, choice))
    except ConfigError as error:
        raise ConfigError(
            error.message,
            "Use the same settings; or evaluate the two models one by one (--model, --run NAME) and `rollhouse eval compare` them.",
        ) from error


def _evaluate(
    store: "LanceStore", job: "BfclJob", choice: "PolicyChoice", name: str | None, concurrency: int
) -> tuple[str, "BfclSummary"]:
    from ..eval.job import run_bfcl_job

    with progress() as bar:
        line = bar.add_task("bfcl" if name is None else name, total=None, note="", visible=False)
        return run_bfcl_job(
            store,
            job,
            choice,
            name,
            concurrency=concurrency,
            on_start=lambda: bar.update(line, note="starting", visible=True),
            on_cases=lambda count: bar.update(line, total=count, note=""),
            on_done=lambda: bar.advance(line),
        )


def print_summary(run_id: str, summary: "BfclSummary", mode: str) -> None:
    """For people: accuracies, and the leaderboard's scores that can be given."""
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
    """For people: what was not run, and which scores that costs."""
    say = console().print
    from ..eval.bfcl.categories import NOT_RUN

    if summary.not_run:
        say(f"not run: {', '.join(summary.not_run)}", markup=False)
    for name, why in NOT_RUN.items():
        say(f"{name} cannot be run: {why}", markup=False)
    lacking = [score.name for score in summary.leaderboard if score.name.endswith("overall") and score.value is None]
    if lacking:
        say(f"no {' and no '.join(lacking)} BFCL score: what was not run is not counted as zero", markup=False)


def bfcl_rows(run_id: str, summary: "BfclSummary") -> list[dict[str, Any]]:
    """One row a category."""
    return [
        {
            "run_id": run_id,
            "category": name,
            "correct": score.correct,
            "total": score.total,
            "accuracy": score.accuracy,
            "prompt_too_long": score.errors.get("prompt_too_long", 0),
        }
        for name, score in summary.categories.items()
    ]
