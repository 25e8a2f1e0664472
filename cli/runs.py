"""`rollhouse runs` and `rollhouse lineage`: what was done, and what made what."""

from typing import TYPE_CHECKING, Annotated

import typer

from .common import AtOption, Format, FormatOption, HouseOption, console, open_house, print_rows

if TYPE_CHECKING:
    from rich.tree import Tree

    from ..store.lineage import Node


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = typer.Typer(no_args_is_help=True, help="List the runs of the house, and look at one.")
    noun.command("list")(list_)
    noun.command("show")(show)
    app.add_typer(noun, name="runs")
    app.command("lineage")(lineage)


def list_(house: HouseOption = None, at: AtOption = None, format: FormatOption = Format.table) -> None:
    """List the runs, oldest first."""
    from ..store.runs import list_runs

    runs = list_runs(open_house(house, at))
    if format is not Format.json:
        shown = ("run_id", "kind", "status", "started_at", "finished_at", "incarnation")
        runs = [{key: run[key] for key in shown} for run in runs]
    print_rows(runs, format)


def show(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    house: HouseOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Show one run: how it went, its configuration, its summary."""
    from ..store.runs import get_run

    found = get_run(open_house(house, at), run)
    if format is Format.json:
        print_rows([found], format)
        return
    print_rows([{"key": key, "value": value} for key, value in found.items()], format)


def lineage(
    id: Annotated[str, typer.Argument(help="A checkpoint, run, dataset NAME@V, snapshot or rollout.")],
    house: HouseOption = None,
    at: AtOption = None,
    format: Annotated[Format, typer.Option("--format", help="A tree, or json.")] = Format.table,
) -> None:
    """Show what something was made from, back to the rollouts and the policies that made them."""
    from dataclasses import asdict

    from ..store.lineage import lineage as trace

    root = trace(open_house(house, at), id)
    if format is Format.table:
        console().print(_tree(root), soft_wrap=True)
    elif format is Format.json:
        print_rows([asdict(root)], format)
    else:
        print_rows(_flat(root, None), format)


def _tree(node: "Node", parent: "Tree | None" = None) -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    line = Text.assemble((f"{node.kind} ", "bold"), (node.id, "cyan"), f"  {node.label}")
    branch = Tree(line) if parent is None else parent.add(line)
    for child in node.children:
        _tree(child, branch)
    return branch


def _flat(node: "Node", parent: str | None) -> list[dict[str, str | None]]:
    row = {"kind": node.kind, "id": node.id, "label": node.label, "made": parent}
    return [row, *(line for child in node.children for line in _flat(child, node.id))]
