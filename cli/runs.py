"""`rollhouse runs` and `rollhouse lineage`: the runs of a store, and the origin of their results."""

from typing import TYPE_CHECKING, Annotated

import typer

from .command import Application, StoredCodeOption
from .common import AtOption, Format, FormatOption, StoreOption, console, open_store, print_rows, progress

if TYPE_CHECKING:
    from rich.tree import Tree

    from ..store.lineage import Node
    from ..train.reproduce import Reproduction


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    noun = Application(no_args_is_help=True, help="List the runs of the store, and look at one.")
    noun.command("list")(list_)
    noun.command("show")(show)
    noun.command("reproduce")(reproduce)
    app.add_typer(noun, name="runs")
    app.command("lineage")(lineage)


def list_(store: StoreOption = None, at: AtOption = None, format: FormatOption = Format.table) -> None:
    """List the runs, oldest first. A run whose process is gone without an end is stale."""
    from ..queries.run_list import listed_runs

    runs = listed_runs(open_store(store, at), at)
    if format is not Format.json:
        shown = ("run_id", "kind", "status", "progress", "rollouts", "mean_reward", "last_sign", "started_at", "finished_at", "incarnation")  # fmt: skip
        runs = [{key: run[key] for key in shown} for run in runs]
    print_rows(runs, format)


def show(
    run: Annotated[str, typer.Argument(help="The run's id, the beginning of it, or latest.")],
    store: StoreOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Show one run: its status, the settings that differ from the defaults, its summary and the last value of each metric."""
    from ..queries.shown import shown
    from ..store.runs import find_run
    from .show import print_shown

    place = open_store(store, at)
    found = find_run(place, run)
    if format is Format.table:
        print_shown(shown(place, found["run_id"], kind="run"))
        return
    if format is Format.json:
        print_rows([found], format)
        return
    print_rows([{"key": key, "value": value} for key, value in found.items()], format)


def reproduce(
    run: Annotated[str, typer.Argument(help="A finished run of train sft or train dpo.")],
    allow_code: StoredCodeOption = False,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Repeat a training run from its dataset version, model, settings and seed, and compare the weights.

    If they differ, the first step with other metrics is printed and the exit code is 1.
    """
    from dataclasses import asdict

    from ..train.reproduce import reproduce as again

    with progress() as bar:
        line = bar.add_task("reproduce", total=None, note="")
        found = again(
            open_store(store),
            run,
            lambda at, steps, note: bar.update(line, completed=at, total=steps, note=note),
            allow_code=allow_code,
        )
    if format is Format.table:
        console().print(_result(found), markup=False, soft_wrap=True)
    else:
        row = {**asdict(found), "identical": found.identical}
        print_rows([row], format)
    if not found.identical:
        raise typer.Exit(1)


def _result(found: "Reproduction") -> str:
    if found.identical:
        return f"identical: {found.again} has the same weights as {found.run_id}, {found.after}"
    at = found.difference
    where = (
        "the metrics of all steps are equal"
        if at is None
        else f"first at step {at.step}: {at.name} was {at.before!r} and is {at.after!r}"
    )
    return f"the weights differ ({found.before} and {found.after} in {found.again}); {where}"


def lineage(
    id: Annotated[
        str,
        typer.Argument(
            help="A checkpoint (RUN/step_N, RUN/best), run, dataset NAME@V, snapshot or rollout; the beginning of an id; latest."
        ),
    ],
    store: StoreOption = None,
    at: AtOption = None,
    format: Annotated[Format, typer.Option("--format", help="Print a tree (table), json or csv.")] = Format.table,
) -> None:
    """Show the origin of a checkpoint, run, dataset, snapshot or rollout, back to rollouts and their policies.

    With --format json, the batches of a training run list their rollouts: advantage, kept or the reason, policy version, staleness.
    """
    from dataclasses import asdict

    from ..store.lineage import lineage as trace
    from ..train.checkpoints import whole_name

    place = open_store(store, at)
    root = trace(place, whole_name(place, id), rollouts=format is Format.json)
    if format is Format.table:
        out = console()
        out.width = 10_000  # lines are not cut; the terminal wraps them
        out.print(_tree(root), soft_wrap=True)
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
