"""`rollhouse collect`: a policy plays an environment's tasks, and every rollout lands in the store."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Format, FormatOption, StoreOption, TasksSplitOption, console, make_store, print_rows, print_summary

if TYPE_CHECKING:
    from ..collect.config import CollectConfig
    from ..collect.summary import CollectSummary


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("collect")(collect)


def collect(
    settings: Annotated[list[str] | None, typer.Argument(help="Settings as `section.key=value`.")] = None,
    config: Annotated[str | None, typer.Option("--config", help="Recipe (YAML), or the name of a shipped one.")] = None,
    env: Annotated[str | None, typer.Option("--env", help="Environment: workplace, workplace-mini, math, FILE.py[:CLASS], nemo-gym:URL or verifiers:NAME.")] = None,
    engine: Annotated[str | None, typer.Option(help="scripted, vllm, torch or openai:URL [default: scripted].")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint, run, model folder or hub name; for an endpoint, the name it serves.")] = None,
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks file (JSON lines).")] = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test [default: train].")] = None,
    tasks_split: TasksSplitOption = None,
    num_repeats: Annotated[int | None, typer.Option(min=1, help="Rollouts of each task [default: 1].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many tasks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of generated tasks, the script's mistakes and sampling.")] = None,
    run: Annotated[str | None, typer.Option(help="The run's name; one that exists is resumed.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy [default: 1].")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus bound [default: 1].")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Limit on sampled tokens a model call [default: 256].")] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Limit on model calls a rollout [default: 6].")] = None,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Begin no rollout once the run has sampled so many tokens.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Context of the engine [default: the model's, at most 4096].")] = None,
    tensor_parallel_size: Annotated[int | None, typer.Option(min=1, help="GPUs a copy of the model is split over (vllm).")] = None,
    data_parallel_size: Annotated[int | None, typer.Option(min=1, help="Copies of the model (vllm).")] = None,
    chat_template: Annotated[str | None, typer.Option(help="Jinja file used in place of the model's chat template.")] = None,
    enable_thinking: Annotated[bool | None, typer.Option("--enable-thinking/--no-enable-thinking", help="The template's setting of that name.")] = None,
    tool_parser: Annotated[str | None, typer.Option(help="hermes, or the name of one of vLLM's tool parsers [default: hermes].")] = None,
    mistake_rate: Annotated[float | None, typer.Option(help="How often the scripted policy stops before its last call [default: 0].")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Rollouts in flight [default: 64].")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds a rollout may take [default: 600].")] = None,
    tool_time_limit: Annotated[float | None, typer.Option(help="Seconds one tool call may take [default: no limit].")] = None,
    max_retries: Annotated[int | None, typer.Option(min=0, help="How often a request to an endpoint is sent again [default: 5].")] = None,
    workers: Annotated[str | None, typer.Option(metavar="ray[:N]", help="Spread rollouts over N processes of a Ray cluster.")] = None,
    retry_failed: Annotated[bool | None, typer.Option("--retry-failed", help="Try again where an earlier attempt failed.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="Take a snapshot of this name afterwards.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and the resolved configuration, and stop.")] = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Collect rollouts of a policy on an environment's tasks. The exit code is 1 when a rollout failed.

    Examples: `rollhouse collect --env workplace-mini --engine scripted --limit 50 --run logs`;
    `rollhouse collect --config collect-mix --run mix num_repeats=4 endpoint.timeout_s=60`.
    """
    flags = {
        "environment": env, "engine": engine, "model": model, "tables": tables, "tasks": tasks, "split": split, "tasks_split": tasks_split,
        "num_repeats": num_repeats, "limit": limit, "seed": seed, "run": run, "temperature": temperature, "top_p": top_p,
        "max_tokens": max_tokens, "max_turns": max_turns, "token_budget": token_budget, "max_model_len": max_model_len,
        "tensor_parallel_size": tensor_parallel_size, "data_parallel_size": data_parallel_size, "chat.template": chat_template,
        "chat.enable_thinking": enable_thinking, "chat.tool_parser": tool_parser,
        "mistake_rate": mistake_rate, "concurrency": concurrency, "time_limit_s": time_limit, "tool_time_limit_s": tool_time_limit,
        "endpoint.max_retries": max_retries, "workers": workers, "retry_failed": retry_failed, "snapshot": snapshot,
    }  # fmt: skip
    resolved = _resolved(config, flags, settings or [])
    if dry_run:
        _print_plan(resolved, store, format)
        return
    from ..base.errors import EngineError
    from ..collect.job import run_job
    from .live import watch

    place = make_store(store)
    resolved = _with_model(place, resolved)
    failed: EngineError | None = None
    with watch(resolved.run or "collect", starts_engine=resolved.engine in ("vllm", "torch")) as (
        on_start,
        on_plan,
        on_done,
    ):
        try:
            summary = run_job(place, resolved, on_start, on_plan, on_done)
        except EngineError as error:
            failed = error
            summary = error.summary
            if summary is None:
                raise
    _print(summary, resolved, format, advise=failed is None)
    if failed is not None:
        raise failed
    if summary.failed:
        raise typer.Exit(1)


def _resolved(recipe: str | None, flags: dict[str, Any], settings: list[str]) -> "CollectConfig":
    from ..collect.config import CollectConfig
    from .settings import resolve

    given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flags.items() if value is not None]
    return resolve(CollectConfig, recipe, [*given, *settings])


def _with_model(place: Any, config: "CollectConfig") -> "CollectConfig":
    from ..policies.opening import loads_model

    if config.model is None or not loads_model(config.engine):
        return config
    from ..train.checkpoints import resolve_model

    return config.model_copy(update={"model": str(resolve_model(place, config.model))})


def _print_plan(config: "CollectConfig", location: str | None, format: Format) -> None:
    from ..collect.job import plan_job
    from ..store.lance_store import LanceStore, store_location
    from .settings import to_yaml

    place = LanceStore(store_location(location))
    there = place if place.has_table("rollouts") else None
    if there is not None:
        config = _with_model(there, config)
    plan = plan_job(there, config)
    if format is not Format.table:
        print_rows([plan], format)
        return
    print(to_yaml(config), end="")
    print_rows(plan.pop("groups"), format, "tasks")
    print_summary({name: value for name, value in plan.items() if name != "config"}, format, "plan")


_NESTED = ("groups", "failures", "statuses", "errors", "pass_at_k", "slowest_tool")


def _print(summary: "CollectSummary", config: "CollectConfig", format: Format, advise: bool) -> None:
    said = summary.as_dict()
    if format is not Format.table:
        print_rows([said], format)
    else:
        flat = {name: value for name, value in said.items() if name not in _NESTED and value is not None}
        flat |= {f"pass@{k}": value for k, value in said["pass_at_k"].items()}
        if summary.slowest_tool is not None:
            flat["slowest_tool"] = f"{summary.slowest_tool[0]}, {summary.slowest_tool[1]:.3g} s"
        print_summary({**flat, "statuses": said["statuses"]}, format, "collected")
        if said["groups"]:
            print_rows(*_narrow(said["groups"], format))
        if said["failures"]:
            print_rows(said["failures"], format, "failures")
    if advise:
        _advise(summary, config)


def _narrow(groups: list[dict[str, Any]], format: Format) -> tuple[list[dict[str, Any]], Format, str]:
    """The groups in as little room as they need: three digits, and the environment in the title where there is but one."""
    names = {"reward_mean": "reward", "reward_std": "std"}
    rows = [
        {names.get(name, name): round(value, 3) if isinstance(value, float) else value for name, value in group.items()}
        for group in groups
    ]
    environments = {row["environment"] for row in rows}
    if len(environments) > 1:
        return rows, format, "by environment and category"
    return (
        [{name: row[name] for name in row if name != "environment"} for row in rows],
        format,
        f"{environments.pop()} by category",
    )


def _advise(summary: "CollectSummary", config: "CollectConfig") -> None:
    """What is left to do, on stderr."""
    out = console(stderr=True)
    again = f"the same command with --run {summary.run_id}"
    if summary.stopped == "token_budget":
        left = summary.planned - summary.skipped - summary.collected
        out.print(f"Stopped at the token budget of {config.token_budget}: {left} rollouts were not begun. Run {again} and a bigger --token-budget to collect them.", markup=False, soft_wrap=True)  # fmt: skip
    failed = summary.failed + (0 if config.retry_failed else summary.failed_before)
    if failed:
        of = summary.collected + summary.skipped
        out.print(f"{failed} of {of} rollouts failed. Run {again} --retry-failed to try them again.", markup=False, soft_wrap=True)  # fmt: skip
