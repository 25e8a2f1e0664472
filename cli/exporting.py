"""`rollhouse export`: rollouts for other frameworks."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import DryRunOption, settings_command
from .common import Format, FormatOption, StoreOption, open_store, print_config, print_rows, print_summary, progress

if TYPE_CHECKING:
    from ..interop.config import ExportConfig

_HELP = "A format of docs/import.md."


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export", cls=settings_command(_model))(export)


def _model() -> "type[ExportConfig]":
    from ..interop.config import ExportConfig

    return ExportConfig


def export(
    ctx: typer.Context,
    file_format: Annotated[str, typer.Argument(metavar="FORMAT", help=_HELP)],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="File to write, or hf:OWNER/NAME; for atif a folder or a .jsonl file."),
    ],
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Write rollouts in another framework's format, and report what that format cannot hold.

    Example: `rollhouse export openai-chat solved.jsonl --where "passed and environment = 'workplace'"`
    """
    from ..interop.exporting import run_export
    from ..interop.formats import EXPORTS, format_named

    config: ExportConfig = ctx.obj
    format_named(file_format, EXPORTS)
    if dry_run:
        print_config(config, {"format": file_format, "file": str(file)}, format)
        return
    with progress(transient=True) as bar:
        line = bar.add_task("export", total=None, note="rollouts")
        place = open_store(store)
        summary = run_export(
            place, file_format, file, config, lambda done, total: bar.update(line, completed=done, total=total)
        )
    if format is not Format.table:
        print_summary(asdict(summary), format)
        return
    print_summary({"rollouts": summary.rollouts, "file": str(file)}, format, "exported")
    # A line each, since what is lost is not to be cut off at the terminal's edge.
    for title, counts in (("left out", summary.left_out), ("not in the file", summary.lost)):
        if counts:
            print_rows([{title: name, "rollouts": count} for name, count in counts.items()], format)
