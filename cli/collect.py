"""`rollhouse collect`: a policy plays an environment's tasks, and every rollout lands in the house."""

from typing import Annotated, Any

import typer

from .common import Format, FormatOption, HouseOption, TasksSplitOption, make_house, print_summary, progress


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("collect")(collect)


def collect(
    env: Annotated[str, typer.Option("--env", help="Environment: workplace or workplace-mini.")],
    engine: Annotated[str, typer.Option(help="scripted, vllm, torch or openai:URL.")] = "scripted",
    model: Annotated[str | None, typer.Option(help="Checkpoint, run, model folder or hub name; for an endpoint, the name it serves.")] = None,
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks file (JSON lines).")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    tasks_split: TasksSplitOption = None,
    num_repeats: Annotated[int, typer.Option(min=1, help="Rollouts of each task.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many tasks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of generated tasks, the script's mistakes and sampling.")] = None,
    run: Annotated[str | None, typer.Option(help="The run's name; one that exists is resumed.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus bound.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Limit on sampled tokens a model call.")] = 256,
    max_turns: Annotated[int, typer.Option(min=1, help="Limit on model calls a rollout.")] = 6,
    max_model_len: Annotated[int | None, typer.Option(help="Context of the engine [default: the model's, at most 4096].")] = None,
    mistake_rate: Annotated[float, typer.Option(help="How often the scripted policy stops before its last call.")] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Rollouts in flight.")] = 64,
    time_limit: Annotated[float, typer.Option(help="Seconds a rollout may take.")] = 600.0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again where an earlier attempt failed.")] = False,
    snapshot: Annotated[str | None, typer.Option(help="Take a snapshot of this name afterwards.")] = None,
    house: HouseOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Collect rollouts of a policy on an environment's tasks.

    Examples: `rollhouse collect --env workplace-mini --engine scripted --limit 50 --run logs`;
    `rollhouse collect --env workplace-mini --engine vllm --model ./model --num-repeats 4`.
    """
    from ..collect.job import CollectJob, run_job
    from ..train.checkpoints import resolve_model

    place = make_house(house)
    if model is not None and engine in ("vllm", "torch"):
        model = str(resolve_model(place, model))
    job = CollectJob(
        environment=env, engine=engine, tables=tables, tasks=tasks, split=split, model=model, num_repeats=num_repeats,
        limit=limit, seed=seed, temperature=temperature, top_p=top_p, max_tokens=max_tokens, max_turns=max_turns,
        mistake_rate=mistake_rate, max_model_len=max_model_len, concurrency=concurrency, time_limit_s=time_limit,
        retry_failed=retry_failed, tasks_split=tasks_split,
    )  # fmt: skip
    with progress() as bar:
        line = bar.add_task("collect", total=None, note="starting")

        def on_start(planned: int) -> None:
            bar.update(line, total=planned, note="starting the engine" if engine in ("vllm", "torch") else "")

        def on_done(row: dict[str, Any], so_far: Any) -> None:
            bar.update(line, completed=so_far.skipped + so_far.collected, note=reward_note(so_far))

        summary = run_job(place, job, run, snapshot, on_start, on_done)
        bar.update(line, completed=summary.planned)
    print_summary(summary.as_dict(), format, "collected")


def reward_note(summary: Any) -> str:
    """Reward and failures so far, behind the progress bar."""
    mean = "" if summary.reward_mean is None else f"reward {summary.reward_mean:.3f}"
    failed = sum(summary.errors.values())
    return f"{mean}, {failed} failed" if failed else mean
