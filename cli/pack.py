"""`rollhouse pack` and `unpack`: chosen runs of a store as one file, for another store."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .common import Format, FormatOption, StoreOption, make_store, open_store, print_rows, print_summary, say

_FILE = typer.Argument(metavar="FILE", help="The file that `rollhouse pack` writes.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(pack)
    app.command()(unpack)


def pack(
    file: Annotated[Path, _FILE],
    run: Annotated[list[str] | None, typer.Option("--run", metavar="RUN", help="A run to pack; may be repeated.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", metavar="NAME@V", help="A dataset version over packed runs, with the run that built it; may be repeated.")
    ] = None,
    checkpoints: Annotated[
        str, typer.Option("--checkpoints", metavar="WHICH", help="Files of checkpoints to pack: none, last or all.")
    ] = "none",
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Write runs, with what they refer to, into one file that `rollhouse unpack` brings into another store.

    Example: `rollhouse pack runs.pack --run base --run sft --dataset demos@1 --checkpoints last`
    """
    from ..store.packing import pack as write
    from ..store.packing import shown

    packed = write(open_store(store), file, run or (), dataset or (), checkpoints)  # type: ignore[arg-type]
    if format is not Format.table:
        print_summary(asdict(packed), format)
        return
    print_summary(shown(packed), format, "packed")
    say("\n".join(packed.notes))


def unpack(
    file: Annotated[Path, _FILE],
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Bring the runs of a pack into the store, ids kept; unpacking it again adds nothing."""
    from ..store.unpacking import unpack as read

    done = read(make_store(store), file)
    if format is not Format.table:
        print_summary(asdict(done), format)
        return
    tables = dict.fromkeys([*done.added, *done.present])
    print_rows([{"table": name, "added": done.added.get(name, 0), "present": done.present.get(name, 0)} for name in tables], format, f"unpacked {', '.join(done.runs)}")  # fmt: skip
    left = [f"{n} rows of {name.partition('.')[0]} wait: their {name.partition('.')[2]} is in neither the pack nor the store." for name, n in done.waiting.items()]  # fmt: skip
    say("\n".join([*left, *(f"Checkpoint {name} added." for name in done.checkpoints), *done.notes]))
