"""`rollhouse export`: rollouts for other frameworks."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .common import (
    AtOption,
    Format,
    FormatOption,
    ScorerOption,
    StoreOption,
    open_store,
    print_rows,
    print_summary,
    progress,
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export")(export)


def export(
    file_format: Annotated[str, typer.Argument(metavar="FORMAT", help="nemo-gym, openai-chat, trl, trl-messages, trl-prompt, trl-kto, verifiers, atif or parquet.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; for atif a folder or a .jsonl file.")],
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Export only rollouts of this run.")] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Export only rollouts for which this SQL condition is true.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Leave out keys and columns that only rollhouse reads.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Write a README.md with the contents beside the file (trl formats).")] = False,
    at: AtOption = None,
    scorer: ScorerOption = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Write rollouts in another framework's format, and report what that format cannot hold.

    Example: `rollhouse export openai-chat solved.jsonl --where "passed and environment = 'workplace'"`.
    """
    from ..interop.exporting import export_file

    with progress(transient=True) as bar:
        line = bar.add_task("export", total=None, note="rollouts")
        summary = export_file(
            open_store(store),
            file_format,
            file,
            run=run,
            where=where,
            at=at,
            scorer=scorer,
            plain=plain,
            card=card,
            on_progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    if format is not Format.table:
        print_summary(asdict(summary), format)
        return
    print_summary({"rollouts": summary.rollouts, "file": str(file)}, format, "exported")
    # A line each, since what is lost is not to be cut off at the terminal's edge.
    for title, counts in (("left out", summary.left_out), ("not in the file", summary.lost)):
        if counts:
            print_rows([{title: name, "rollouts": count} for name, count in counts.items()], format)
