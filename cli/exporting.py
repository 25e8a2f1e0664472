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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write (atif: a folder, or a .jsonl file).")],
    run: Annotated[str | None, typer.Option(help="Only rollouts of this run.")] = None,
    where: Annotated[str | None, typer.Option(help="Only rollouts for which this SQL condition holds.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Without keys and columns of our own.")] = False,
    card: Annotated[bool, typer.Option("--card", help="With a README.md beside it that says what it holds (trl formats).")] = False,
    at: AtOption = None,
    scorer: ScorerOption = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Write rollouts to a file of another framework's format, and say what that format has no place for.

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
