"""`rollhouse import`: rollouts that other frameworks wrote."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..base.errors import ConfigError
from .command import DryRunOption, PlainCommand, settings_command
from .common import Format, FormatOption, StoreOption, console, make_store, print_config, print_summary, progress

if TYPE_CHECKING:
    from ..interop.config import ImportConfig

_FILE = "File, folder or hf:OWNER/NAME[:CONFIG][@SPLIT] to import."


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("import", cls=_command())(import_)


def _model() -> "type[ImportConfig]":
    from ..interop.config import ImportConfig

    return ImportConfig


def _command() -> type[PlainCommand]:
    """The configured command, with a format that may be left out before the file, also where settings follow it."""

    class Import(settings_command(_model)):
        def invoke(self, ctx: Any) -> Any:
            second = ctx.params.get("file")
            if second and "=" in second and not Path(second).exists():
                ctx.params["settings"] = (second, *(ctx.params["settings"] or ()))
                ctx.params["file"] = None
            return super().invoke(ctx)

    return Import


def import_(
    ctx: typer.Context,
    file_format: Annotated[
        str,
        typer.Argument(
            metavar="[FORMAT]", help="A format of docs/import.md or FILE.py:NAME. Default: found out from FILE."
        ),
    ],
    file: Annotated[str | None, typer.Argument(metavar="FILE", help=_FILE)] = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Import rollouts from a file. Importing a file again adds only new rollouts.

    Bad lines are skipped and reported with their number and the reason. Examples: `rollhouse import rollouts.jsonl`, `rollhouse import nemo-gym rollouts.jsonl`
    """
    from ..interop.formats import IMPORTS, format_named
    from ..interop.importing import found_format, run_import
    from ..interop.places import is_hub
    from ..queries.suspicions import suspicious_rollouts
    from .store import print_suspicions

    config: ImportConfig = ctx.obj
    path = Path(file or file_format)
    if file is not None:
        format_named(file_format, IMPORTS)
    if not is_hub(path) and not path.exists():
        raise ConfigError(f"There is no file {path}.", "Check the path.")
    name = file_format
    if file is None:
        found = found_format(path, config)
        name = found.format
        console(stderr=True).print(f"{path} is {name}: {found.why}.", markup=False, soft_wrap=True)
    if dry_run:
        print_config(config, {"format": name, "file": str(path)}, format)
        return
    with progress(transient=True) as bar:
        line = bar.add_task("import", total=_size(path), note="bytes")
        place = make_store(store)
        summary = run_import(place, name, path, config, lambda read: bar.update(line, completed=read))
    suspicions = suspicious_rollouts(place, summary.run_id) if summary.added else []
    facts = asdict(summary)
    if format is not Format.table:
        facts["suspicious"] = {one.finding: one.rollouts for one in suspicions}
    print_summary(facts, format, "imported")
    if suspicions and format is Format.table:
        print_suspicions(suspicions, format)


def _size(path: Path) -> int | None:
    if path.is_file():
        return path.stat().st_size
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file()) if path.is_dir() else None
