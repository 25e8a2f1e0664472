"""`rollhouse view`: the store in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from ..base.errors import ConfigError
from .common import AtOption, progress, say


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("view")(view)


def view(
    store: Annotated[list[str] | None, typer.Option("--store", help="Folder or URI of a store; repeat it for several [default: $ROLLHOUSE_STORE or ./rollouts].")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; one that other machines reach gets a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8642,
    at: AtOption = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Write no labels.")] = False,
    bundle: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a static site to this new folder instead of serving.")] = None,
    run: Annotated[list[str] | None, typer.Option(help="With --bundle: a run to show, and its validations; repeat it for several [default: all].")] = None,
    max_rollouts: Annotated[int, typer.Option(min=0, help="With --bundle: refuse runs with more rollouts.")] = 5000,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:  # fmt: skip
    """Show runs, rollouts, their tokens and where they went in the browser.

    Examples: `rollhouse view`; `rollhouse view --store ./rollouts --store ./other --port 0 --no-open`; `rollhouse view --bundle site --run grpo`.
    """
    if bundle is not None:
        _bundle(store or [], at, bundle, run or [], max_rollouts)
        return
    if run:
        raise ConfigError("--run is for --bundle.", "Choose a run on the runs page.")
    from ..view.run import serve

    serve(store or [None], host, port, at, opens=not no_open, read_only=read_only, announce=_announce)


def _bundle(stores: list[str], at: str | None, folder: Path, runs: list[str], max_rollouts: int) -> None:
    from ..queries.sql_store import SqlStore
    from ..store.lance_store import store_location
    from ..view.bundle import write_bundle

    if len(stores) > 1:
        raise ConfigError("A bundle is of one store.", "Give --store once.")
    store = SqlStore.open(store_location(stores[0] if stores else None), at)
    with progress(transient=True) as bar:
        line = bar.add_task("bundle", total=None, note="rollouts")
        made = write_bundle(store, folder, runs, max_rollouts, lambda done, total: bar.update(line, completed=done, total=total))  # fmt: skip
    say(f"{made.runs} runs with {made.rollouts} rollouts in {made.files} files, {made.bytes / 1e6:.1f} MB")
    say(f"next: open {made.folder}/index.html")


def _announce(url: str) -> None:
    print(f"Viewing at {url}", flush=True)
    print("Ctrl-C ends it.", flush=True)
