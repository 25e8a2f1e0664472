"""`rollhouse import`: rollouts that other frameworks wrote."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..base.errors import ConfigError
from .common import Format, FormatOption, StoreOption, make_store, print_summary, progress

_HELP = "nemo-gym, openai-chat, trl, verifiers, verifiers-v0, atif or parquet."


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("import")(import_)


def import_(
    file_format: Annotated[str, typer.Argument(metavar="FORMAT", help=_HELP)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to import; for atif a folder, too.")],
    env: Annotated[
        str | None, typer.Option("--env", metavar="NAME", help="Environment of rows that name none.")
    ] = None,
    source_run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run that the rows come from.")
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="nemo-gym: file of planned inputs with the ground truths [default: beside FILE]."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the import run.")] = None,
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Largest share of bad lines that is still a success.")
    ] = 0.01,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad line.")] = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Import rollouts from a file. Importing a file again adds only new rollouts.

    Bad lines are skipped and reported with their number and the reason. Example: `rollhouse import nemo-gym rollouts.jsonl`.
    """
    from ..interop.formats import IMPORTS, format_named
    from ..interop.importing import import_file

    format_named(file_format, IMPORTS)
    if not file.exists():
        raise ConfigError(f"There is no file {file}.", "Check the path.")
    size = sum(part.stat().st_size for part in ([file] if file.is_file() else file.glob("*.json")))
    with progress(transient=True) as bar:
        line = bar.add_task("import", total=size, note="bytes")
        summary = import_file(
            make_store(store),
            file_format,
            file,
            environment=env,
            source_run=source_run,
            inputs=inputs,
            name=run,
            max_bad=max_bad,
            strict=strict,
            on_progress=lambda read: bar.update(line, completed=read),
        )
    print_summary(asdict(summary), format, "imported")
