"""`rollhouse tasks`: an environment's tasks into the store, and dataset files made ready."""

from typing import Annotated

import typer

from .common import Format, FormatOption, StoreOption, TasksSplitOption, make_store, print_rows


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = typer.Typer(no_args_is_help=True, help="Make tasks.")
    noun.callback()(lambda: None)
    noun.command("generate")(generate)
    noun.command("tables")(tables)
    noun.command("prepare")(prepare)
    app.add_typer(noun, name="tasks")


def generate(
    env: Annotated[str, typer.Option("--env", help="Environment whose generator or file to take them from.")],
    split: Annotated[list[str] | None, typer.Option("--split", help="train, validation or test; may be repeated [default: train and validation].")] = None,
    seed: Annotated[int, typer.Option(help="Of the generator.")] = 0,
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks file (JSON lines).")] = None,
    tasks_split: TasksSplitOption = None,
    count: Annotated[int | None, typer.Option(min=1, help="So many of each split; of tasks that no generator of ours makes, at most so many.")] = None,
    output: Annotated[str | None, typer.Option(help="Write them to this file as NeMo Gym rows, instead of into the store.")] = None,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Generate an environment's tasks from a seed and put them into the store; those it has already stay as they are.

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
    out: Annotated[str, typer.Argument(metavar="DIR", help="Folder to write to; it is made.")],
    size: Annotated[float, typer.Option(help="1 is as large as the Workplace Assistant's: 500 e-mails, 300 events, 200 customers.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the generator.")] = 0,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Generate the six tables of an invented office for the environment workplace, of any size, the same for the same seed.

    Example: `rollhouse tasks tables tables/ --size 2`.
    """
    from ..environments.workplace.generator.tables import generate_tables

    rows = generate_tables(out, seed, size)
    print_rows([{"file": name, "rows": count} for name, count in rows.items()], format, out)


def prepare(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Dataset files: one task a line, in NeMo Gym's row format.")],
    out: Annotated[str, typer.Option(help="Folder of the result: train.jsonl, validation.jsonl, metrics.json.")],
    agent: Annotated[str | None, typer.Option(help="Agent of rows that name none; without it such a row is a bad one.")] = None,
    split: Annotated[str, typer.Option(help="Split of rows that name none: train, validation or test.")] = "train",
    validation: Annotated[list[str] | None, typer.Option(help="A file of validation rows; may be repeated.")] = None,
    validation_share: Annotated[float, typer.Option(help="Share of the rows without a split to hold out for validation, by prompt.")] = 0.0,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Write equal rows once.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, listed in problems.jsonl.")] = False,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Check dataset rows, stamp them with their agent, merge the files and report what is in them.

    Any bad row is named by file and line, and then nothing is written. Example: `rollhouse tasks prepare a.jsonl b.jsonl --agent simple_agent --out data`.
    """
    from ..environments.prepare import prepare_tasks

    metrics = prepare_tasks(
        files, out, validation_files=validation or (), agent=agent, split=split, validation_share=validation_share, dedupe=dedupe, skip_bad=skip_bad,
    )  # fmt: skip
    print_rows(
        [{"split": name, "out": out, **counted} for name, counted in metrics["splits"].items()], format, "prepared"
    )
