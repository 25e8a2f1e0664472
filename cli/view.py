"""`rollhouse view`: the store in the browser."""

from typing import Annotated

import typer

from .common import AtOption


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("view")(view)


def view(
    store: Annotated[list[str] | None, typer.Option("--store", help="Folder or URI of a store; repeat it for several [default: $ROLLHOUSE_STORE or ./rollouts].")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; one that other machines reach gets a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8642,
    at: AtOption = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Write no labels.")] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:  # fmt: skip
    """Show runs, rollouts, their tokens and where they went in the browser.

    Examples: `rollhouse view`; `rollhouse view --store ./rollouts --store ./other --port 0 --no-open`.
    """
    from ..view.run import serve

    serve(store or [None], host, port, at, opens=not no_open, read_only=read_only, announce=_announce)


def _announce(url: str) -> None:
    print(f"Viewing at {url}", flush=True)
    print("Ctrl-C ends it.", flush=True)
