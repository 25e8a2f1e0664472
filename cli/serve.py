"""`rollhouse serve`: an OpenAI-compatible server that records what agents do as rollouts."""

import json
from typing import TYPE_CHECKING

import typer

from .command import DryRunOption, settings_command
from .common import Format, FormatOption, StoreOption, console, make_store, print_config, print_summary, say
from .viewing import ViewOption, viewing

if TYPE_CHECKING:
    from ..serve.config import ServeConfig
    from ..serve.job import Listening


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve", cls=settings_command(_model))(serve)


def _model() -> "type[ServeConfig]":
    from ..serve.config import ServeConfig

    return ServeConfig


def serve(
    ctx: typer.Context,
    dry_run: DryRunOption = False,
    view: ViewOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Serve a model to any agent and record its calls as rollouts, under the ids that the agent sends.

    Example: `rollhouse serve --engine vllm --model ./model --run agents`

    Example: `rollhouse serve --engine torch --model ./model --port 0 --idle-limit 600`
    """
    from ..serve.job import refuse_unservable, run_server, with_served_name
    from ..train.checkpoints import named_adapters, with_model

    config: ServeConfig = ctx.obj
    refuse_unservable(config)
    if dry_run:
        print_config(config, {}, format)
        return
    place = make_store(store)
    config = with_model(place, with_served_name(config))
    with viewing(place, view):
        adapters = named_adapters(place, config.policy.adapters)
        summary = run_server(place, config, lambda listening: _print_address(listening, format), adapters)
    print_summary(summary, format, "served")
    if summary["open"]:
        left = f"{summary['open']} rollouts are still open and stay in the journal: the same command with --run {summary['run_id']} continues them."
        console(stderr=True).print(left, soft_wrap=True)


def _print_address(listening: "Listening", format: Format) -> None:
    """One line on stdout, flushed at once: a program that starts the server waits for it."""
    if format is Format.json:
        ready = {"url": listening.url, "base_url": f"{listening.url}/v1", "run_id": listening.run_id, "model": listening.model, "open": listening.open}  # fmt: skip
        print(json.dumps(ready), flush=True)
        return
    say(f"Serving {listening.model} at {listening.url}/v1 (run {listening.run_id})")
    if listening.open:
        print(f"{listening.open} rollouts of an earlier server are open and continue.", flush=True)
    if not listening.keeps_calls:
        print(
            "This store is on an object store and has no journal: open rollouts are lost when the server ends.",
            flush=True,
        )
