"""`rollhouse tasks`: an environment's tasks into the store, and dataset files made ready."""

from typing import TYPE_CHECKING, Annotated

import typer

from .command import Application, DryRunOption, settings_command
from .common import Format, FormatOption, StoreOption, make_store, print_config, print_rows

if TYPE_CHECKING:
    from ..environments.config import TasksConfig


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = Application(no_args_is_help=True, help="Make tasks.")
    noun.callback()(lambda: None)
    noun.command("generate", cls=settings_command(_model))(generate)
    noun.command("tables")(tables)
    noun.command("prepare")(prepare)
    app.add_typer(noun, name="tasks")


def _model() -> "type[TasksConfig]":
    from ..environments.config import TasksConfig

    return TasksConfig


def generate(
    ctx: typer.Context,
    output: Annotated[str | None, typer.Option("--output", metavar="FILE", help="Write NeMo Gym rows to this file instead of the store.", rich_help_panel="Output")] = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Generate an environment's tasks from a seed and add the new ones to the store.

    Example: `rollhouse tasks generate --env workplace-mini --seed 0`.
    """
    from ..environments.stored_tasks import add_tasks, generate_tasks
    from ..environments.tasks_file import write_tasks

    config: TasksConfig = ctx.obj
    if dry_run:
        print_config(config, {}, format)
    elif output is None:
        print_rows(add_tasks(make_store(store), config), format, "tasks")
    else:
        made = generate_tasks(config)
        write_tasks(output, [task for of_split in made.values() for task in of_split])
        counts = [{"environment": config.name, "split": split, "tasks": len(of)} for split, of in made.items()]
        print_rows(counts, format, "tasks")


def tables(
    out: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder to write to; created if missing.")],
    size: Annotated[float, typer.Option(metavar="X", help="Size; 1 is 500 e-mails, 300 events and 200 customers.")] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the generator.")] = 0,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Generate the six tables of the environment workplace. The same seed gives the same tables.

    Example: `rollhouse tasks tables tables/ --size 2`.
    """
    from ..environments.workplace.generator.tables import generate_tables

    rows = generate_tables(out, seed, size)
    print_rows([{"file": name, "rows": count} for name, count in rows.items()], format, out)


def prepare(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Dataset files with one NeMo Gym row per line.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Output folder: train.jsonl, validation.jsonl, metrics.json.")],
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Agent of rows that name none; without it such rows are bad.")] = None,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="Split of rows that name none: train, validation or test.")] = "train",
    validation: Annotated[list[str] | None, typer.Option(metavar="FILE", help="File of validation rows; may be repeated.")] = None,
    validation_share: Annotated[float, typer.Option(metavar="X", help="Share of rows without a split to hold out for validation, by prompt.")] = 0.0,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Write equal rows only once.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out and list them in problems.jsonl.")] = False,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Check dataset rows, add their agent, merge the files and report the contents.

    A bad row is reported by file and line, and nothing is written. Example: `rollhouse tasks prepare a.jsonl b.jsonl --agent simple_agent --out data`.
    """
    from ..environments.prepare import prepare_tasks

    metrics = prepare_tasks(
        files, out, validation_files=validation or (), agent=agent, split=split, validation_share=validation_share, dedupe=dedupe, skip_bad=skip_bad,
    )  # fmt: skip
    print_rows(
        [{"split": name, "out": out, **counted} for name, counted in metrics["splits"].items()], format, "prepared"
    )
