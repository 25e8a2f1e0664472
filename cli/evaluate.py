"""`rollhouse eval`: a policy on an environment's held-out tasks, or on the Berkeley Function-Calling Leaderboard."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    Format,
    FormatOption,
    HouseOption,
    TasksSplitOption,
    console,
    make_house,
    open_house,
    print_rows,
    progress,
)

if TYPE_CHECKING:
    from ..eval.bfcl import BfclSummary
    from ..eval.compare import RunComparison
    from ..eval.job import PolicyChoice
    from ..eval.summary import EvalSummary
    from ..store.house import House

EngineOption = Annotated[str, typer.Option("--engine", help="scripted, vllm, torch or openai:URL.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Checkpoint, run, model folder or hub name; for an endpoint, the name it serves.")]  # fmt: skip
LengthOption = Annotated[int | None, typer.Option("--max-model-len", help="Context of the engine [default: the model's, at most 4096].")]  # fmt: skip
TokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Limit on sampled tokens a model call.")]
RunOption = Annotated[str | None, typer.Option("--run", help="The run's name; one that exists is resumed.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = typer.Typer(no_args_is_help=True, help="Evaluate a policy; every case is a row of `evaluations`.")
    noun.command("env")(env)
    noun.command("bfcl")(bfcl)
    noun.command("compare")(compare)
    app.add_typer(noun, name="eval")


def env(
    env: Annotated[str, typer.Option("--env", help="Environment: workplace or workplace-mini.")],
    engine: EngineOption = "scripted",
    model: ModelOption = None,
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks file (JSON lines).")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    tasks_split: TasksSplitOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many tasks.")] = None,
    mode: Annotated[str, typer.Option(help="greedy or sampled.")] = "greedy",
    samples: Annotated[int, typer.Option(min=1, help="Rollouts of each task; more than one needs --mode sampled.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of mode sampled.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of generated tasks, the script's mistakes and sampling.")] = 0,
    max_tokens: TokensOption = 256,
    max_turns: Annotated[int, typer.Option(min=1, help="Limit on model calls a rollout.")] = 6,
    max_model_len: LengthOption = None,
    mistake_rate: Annotated[float, typer.Option(help="How often the scripted policy stops before its last call.")] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Rollouts in flight.")] = 64,
    run: RunOption = None,
    house: HouseOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Evaluate a policy on tasks of an environment: pass rate with its error, pass@k, by category.

    Example: `rollhouse eval env --env workplace-mini --engine vllm --model sft-demo --mode sampled --samples 4`.
    """
    from ..eval.job import EnvironmentJob, run_environment_job

    place = make_house(house)
    job = EnvironmentJob(
        env, tables, tasks, split, limit, mode, samples, temperature, max_tokens, max_turns, seed, tasks_split
    )
    choice = _choice(place, engine, model, max_model_len, mistake_rate, seed)
    with progress() as bar:
        line = bar.add_task("evaluate", total=None, note="starting")

        def on_start(planned: int) -> None:
            bar.update(line, total=planned, note="starting the engine" if engine in ("vllm", "torch") else "")

        def on_done(row: dict[str, Any], so_far: Any) -> None:
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


def bfcl(
    category: Annotated[list[str] | None, typer.Option("--category", help="Category or group (non_live, live, single_turn); may be repeated [default: single_turn].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many cases of each category, always the same ones [default: all].")] = None,
    engine: EngineOption = "vllm",
    model: ModelOption = None,
    max_tokens: TokensOption = 256,
    max_model_len: LengthOption = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Answers generated at once.")] = 32,
    run: RunOption = None,
    house: HouseOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Evaluate a policy on single-turn BFCL categories in function-calling mode, judged by bfcl-eval's own checkers.

    Example: `rollhouse eval bfcl --category live --limit 20 --engine vllm --model sft-demo`.
    """
    from ..eval.job import BfclJob, run_bfcl_job

    place = make_house(house)
    job = BfclJob(tuple(category or ["single_turn"]), limit, max_tokens)
    choice = _choice(place, engine, model, max_model_len, 0.0, 0)
    with progress() as bar:
        line = bar.add_task("bfcl", total=None, note="starting")
        run_id, summary = run_bfcl_job(
            place,
            job,
            choice,
            run,
            concurrency=concurrency,
            on_cases=lambda count: bar.update(line, total=count, note=""),
            on_done=lambda: bar.advance(line),
        )
    print_rows(bfcl_rows(run_id, summary), format, "BFCL, function calling")
    if format is Format.table:
        if summary.not_run:
            console().print(f"not run: {', '.join(summary.not_run)}", markup=False)
        console().print("Accuracies of single categories; this is no overall BFCL score.")


def compare(
    run_a: Annotated[str, typer.Argument(help="The run to compare with.")],
    runs: Annotated[list[str], typer.Argument(help="One or more runs to compare with it.")],
    flips: Annotated[
        int, typer.Option(min=0, help="So many flips are shown in the table [json: all, csv: none].")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    house: HouseOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Compare evaluations on the cases both judged: difference with its interval, McNemar's test, the cases that flipped.

    Example: `rollhouse eval compare eval-base eval-grpo`.
    """
    from ..eval.compare import compare_runs

    place = open_house(house)
    compared = [compare_runs(place, run_a, run_b, seed) for run_b in runs]
    if format is not Format.table:
        flipped = [row for one in compared for row in flip_rows(one)] if format is Format.json else []
        print_rows([row for one in compared for row in comparison_rows(one)] + flipped, format)
        return
    for one in compared:
        print_comparison(one, flips)


def print_comparison(one: "RunComparison", flips: int) -> None:
    """For people: a table of numbers, what they mean, and the first flips."""
    shown = ("category", "cases", "a", "b", "difference", "low", "high", "a_only", "b_only", "p", "verdict")
    rows = [{name: row[name] for name in shown} for row in comparison_rows(one)]
    print_rows(rows, Format.table, f"{one.run_b} (b) against {one.run_a} (a)")
    say = console().print
    for whole in one.overall:
        says = {"noise": "the difference is noise: zero is inside its 95 % interval"}
        meaning = says.get(whole.verdict, f"b is {whole.verdict} than a: zero is outside the 95 % interval")
        say(f"{whole.benchmark}, {whole.n} cases: {meaning}.", markup=False)
    if len(one.by_category) > 1:
        say("Categories are tested one by one; of twenty, one differs at 5 % by luck alone.")
    if one.only_in_a or one.only_in_b:
        say(f"Left out: {one.only_in_a} cases that only a judged, {one.only_in_b} that only b did.")
    for name, a, b in one.differing:
        say(f"The runs differ in {name}: {a!r} and {b!r}.", markup=False)
    if one.flips and flips:
        print_rows(flip_rows(one)[:flips], Format.table, f"{min(flips, len(one.flips))} of {len(one.flips)} flips")


def comparison_rows(one: "RunComparison") -> list[dict[str, Any]]:
    """One row a category and one for all of a benchmark; `record` tells them from flips."""
    return [
        {
            "record": "comparison",
            "run_a": one.run_a,
            "run_b": one.run_b,
            "benchmark": part.benchmark,
            "category": part.category or "all",
            "cases": part.n,
            "a": part.a,
            "b": part.b,
            "difference": part.difference,
            "low": part.low,
            "high": part.high,
            "a_only": part.only_a,
            "b_only": part.only_b,
            "p": part.p,
            "verdict": part.verdict,
        }
        for part in (*one.by_category, *one.overall)
    ]


def flip_rows(one: "RunComparison") -> list[dict[str, Any]]:
    """One row a flip; the rollouts are those of the first sample."""
    return [
        {
            "record": "flip",
            "run_b": one.run_b,
            "category": flip.category,
            "case_id": flip.case_id,
            "change": "gained" if flip.gained else "lost",
            "a": flip.a.rate,
            "b": flip.b.rate,
            "rollout_a": flip.a.rollout_ids[0],
            "rollout_b": flip.b.rollout_ids[0],
        }
        for flip in one.flips
    ]


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


def _choice(
    house: "House", engine: str, model: str | None, max_model_len: int | None, mistake_rate: float, seed: int
) -> "PolicyChoice":
    from ..eval.job import PolicyChoice

    if model is not None and engine in ("vllm", "torch"):
        from ..train.checkpoints import resolve_model

        model = str(resolve_model(house, model))
    return PolicyChoice(engine, model, max_model_len, mistake_rate, seed)
