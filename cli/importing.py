"""`rollhouse import`: rollouts that other frameworks wrote."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..base.errors import ConfigError
from .command import DryRunOption, settings_command
from .common import Format, FormatOption, StoreOption, make_store, print_config, print_summary, progress

if TYPE_CHECKING:
    from ..interop.config import ImportConfig

_HELP = "nemo-gym, openai-chat, trl, verifiers, verifiers-v0, atif, parquet or FILE.py:NAME."


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("import", cls=settings_command(_model))(import_)


def _model() -> "type[ImportConfig]":
    from ..interop.config import ImportConfig

    return ImportConfig


def import_(
    ctx: typer.Context,
    file_format: Annotated[str, typer.Argument(metavar="FORMAT", help=_HELP)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to import; for atif a folder, too.")],
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Import rollouts from a file. Importing a file again adds only new rollouts.

    Bad lines are skipped and reported with their number and the reason. Example: `rollhouse import nemo-gym rollouts.jsonl`
    """
    from ..interop.formats import IMPORTS, format_named
    from ..interop.importing import run_import

    config: ImportConfig = ctx.obj
    format_named(file_format, IMPORTS)
    if not file.exists():
        raise ConfigError(f"There is no file {file}.", "Check the path.")
    if dry_run:
        print_config(config, {"format": file_format, "file": str(file)}, format)
        return
    size = sum(part.stat().st_size for part in ([file] if file.is_file() else file.glob("*.json")))
    with progress(transient=True) as bar:
        line = bar.add_task("import", total=size, note="bytes")
        place = make_store(store)
        summary = run_import(place, file_format, file, config, lambda read: bar.update(line, completed=read))
    print_summary(asdict(summary), format, "imported")
