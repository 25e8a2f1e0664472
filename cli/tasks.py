"""`rollhouse tasks`: the tasks of an environment, put into the house."""

from typing import Annotated

import typer

from .common import Format, FormatOption, HouseOption, TasksSplitOption, make_house, print_rows


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = typer.Typer(no_args_is_help=True, help="Make tasks.")
    noun.callback()(lambda: None)
    noun.command("generate")(generate)
    app.add_typer(noun, name="tasks")


def generate(
    env: Annotated[str, typer.Option("--env", help="Environment whose generator or file to take them from.")],
    split: Annotated[list[str] | None, typer.Option("--split", help="train, validation or test; may be repeated [default: train and validation].")] = None,
    seed: Annotated[int, typer.Option(help="Of the generator.")] = 0,
    tables: Annotated[str | None, typer.Option(help="Folder of the environment's tables.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks file (JSON lines).")] = None,
    tasks_split: TasksSplitOption = None,
    house: HouseOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Generate an environment's tasks from a seed and put them into the house; those it has already stay as they are.

    Example: `rollhouse tasks generate --env workplace-mini --seed 0`.
    """
    from ..collect.environments.registry import load_environment
    from ..collect.task_rows import store_tasks

    place = make_house(house)
    environment = load_environment(env, tables, tasks, seed, tasks_split)
    rows = []
    for name in split or ["train", "validation"]:
        made = list(environment.tasks(name))
        rows.append({"environment": env, "split": name, "tasks": len(made), "new": store_tasks(place, made)})
    print_rows(rows, format, "tasks")
