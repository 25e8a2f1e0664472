"""`rollhouse tasks`: an environment's tasks into the store, and dataset files made ready."""

from typing import Annotated

import typer

from .command import Application
from .common import Format, FormatOption, StoreOption, TasksSplitOption, make_store, print_rows


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = Application(no_args_is_help=True, help="Make tasks.")
    noun.callback()(lambda: None)
    noun.command("generate")(generate)
    noun.command("tables")(tables)
    noun.command("prepare")(prepare)
    app.add_typer(noun, name="tasks")


def generate(
    env: Annotated[str, typer.Option("--env", metavar="NAME", help="Environment that makes or reads the tasks.")],
    split: Annotated[list[str] | None, typer.Option("--split", metavar="SPLIT", help="train, validation or test; may be repeated [default: train and validation].")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the generator.")] = 0,
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks file (JSON lines).")] = None,
    tasks_split: TasksSplitOption = None,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="Tasks per split; at most N for an environment without a generator.")] = None,
    output: Annotated[str | None, typer.Option(metavar="FILE", help="Write NeMo Gym rows to this file instead of the store.")] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Generate an environment's tasks from a seed and add the new ones to the store.

    Example: `rollhouse tasks generate --env workplace-mini --seed 0`.
    """
    from ..environments.registry import generated_tasks
    from ..environments.stored_tasks import store_tasks
    from ..environments.tasks_file import write_tasks

    made = generated_tasks(env, split or ["train", "validation"], count, tables, tasks, seed, tasks_split)
    counts = [{"environment": env, "split": name, "tasks": len(of_split)} for name, of_split in made.items()]
    if output is not None:
        write_tasks(output, [task for of_split in made.values() for task in of_split])
    else:
        place = make_store(store)
        counts = [row | {"new": store_tasks(place, made[str(row["split"])])} for row in counts]
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
