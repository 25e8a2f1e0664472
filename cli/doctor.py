"""`rollhouse doctor`: what this machine can run, what is missing, how to get it."""

import typer

from .common import Format, FormatOption, StoreOption, print_rows


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)


def doctor(store: StoreOption = None, format: FormatOption = Format.table) -> None:
    """Reports Python, torch, GPU, vLLM, Ray, a left-over Ray cluster, sandboxes, disk, hub access and the W&B key.

    Exit code 1 when something that a command needs is missing.
    """
    from dataclasses import asdict

    from ..store.lance_store import store_location
    from .machine import checks

    found = list(checks(store_location(store)))
    print_rows([asdict(check) for check in found], format, title="rollhouse doctor")
    if any(check.state == "missing" for check in found):
        raise typer.Exit(1)
