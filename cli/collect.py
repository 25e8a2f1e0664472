"""`rollhouse collect`: a policy plays an environment's tasks, and every rollout lands in the store."""

from typing import TYPE_CHECKING, Any

import typer

from .command import DryRunOption, settings_command
from .common import Format, FormatOption, StoreOption, console, make_store, print_rows, print_summary, say
from .viewing import ViewOption, viewing

if TYPE_CHECKING:
    from ..collect.config import CollectConfig
    from ..collect.summary import CollectSummary


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("collect", cls=settings_command(_model))(collect)


def _model() -> "type[CollectConfig]":
    from ..collect.config import CollectConfig

    return CollectConfig


def collect(
    ctx: typer.Context,
    dry_run: DryRunOption = False,
    view: ViewOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Collect rollouts of a policy on an environment's tasks. The exit code is 1 when a rollout failed.

    Example: `rollhouse collect --env workplace-mini --engine scripted --limit 50 --run logs`

    Example: `rollhouse collect --config collect-mix --run mix num_repeats=4 policy.endpoint.timeout_s=60`
    """
    config: CollectConfig = ctx.obj
    if dry_run:
        _print_plan(config, store, format)
        return
    from ..base.errors import EngineError
    from ..collect.job import run_job
    from ..harness.opening import open_play
    from .live import watch

    place = make_store(store)
    from ..train.checkpoints import with_model

    config = with_model(place, config)
    failed: EngineError | None = None
    starts_engine = config.policy.engine in ("vllm", "torch")
    beside = viewing(place, view)
    with beside, watch(config.run or "collect", starts_engine=starts_engine) as (on_start, on_plan, on_done):
        try:
            summary = run_job(place, config, on_start, on_plan, on_done, open_play)
        except EngineError as error:
            failed = error
            summary = error.summary
            if summary is None:
                raise
    _print(summary, config, format, advise=failed is None)
    if failed is not None:
        raise failed
    if summary.failed:
        raise typer.Exit(1)


def _print_plan(config: "CollectConfig", location: str | None, format: Format) -> None:
    from ..base.recipes import to_yaml
    from ..collect.job import plan_job
    from ..store.lance_store import LanceStore, store_location

    place = LanceStore(store_location(location))
    there = place if place.has_table("rollouts") else None
    if there is not None:
        from ..train.checkpoints import with_model

        config = with_model(there, config)
    plan = plan_job(there, config)
    if format is not Format.table:
        print_rows([plan], format)
        return
    say(to_yaml(config).rstrip("\n"))
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
        out.print(f"Stopped at the token budget of {config.limits.token_budget}: {left} rollouts were not started. Run {again} and a larger --token-budget to collect them.", markup=False, soft_wrap=True)  # fmt: skip
    failed = summary.failed + (0 if config.retry_failed else summary.failed_before)
    if failed:
        of = summary.collected + summary.skipped
        out.print(f"{failed} of {of} rollouts failed. Run {again} --retry-failed to try them again.", markup=False, soft_wrap=True)  # fmt: skip
