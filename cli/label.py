"""`rollhouse label`: a label, star or note on a rollout or one of its messages."""

from typing import Annotated

import typer

from .common import StoreOption, open_store, say


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("label")(label)


def label(
    rollout: Annotated[str, typer.Argument(help="Id of the rollout, or a unique prefix.")],
    labels: Annotated[list[str] | None, typer.Argument(metavar="[LABEL]...", help="Tags, such as good or leak; `star` is a star.")] = None,
    message: Annotated[int | None, typer.Option(metavar="N", min=0, help="Label the message at this position after the prompt, from 0.")] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Write a note; it replaces your earlier one.")] = None,
    author: Annotated[str | None, typer.Option(metavar="NAME", help="Who gives the label [default: your user name].")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the labels away; without a label, your note.")] = False,
    store: StoreOption = None,
) -> None:  # fmt: skip
    """Label a rollout or one of its messages; `select * from current_labels` lists the labels, and dataset rules use them.

    Examples: `rollhouse label 3f2a good`; `rollhouse label 3f2a leak --message 4 --note "reads the test file"`.
    """
    from ..queries.rollouts import label_rollout

    given = label_rollout(open_store(store), rollout, labels or [], message=message, note=note, author=author, remove=remove)  # fmt: skip
    for row in given:
        place = "" if row["message"] is None else f", message {row['message']}"
        say(f"{'removed' if row['removed'] else 'added'} {row['label']} on {row['rollout_id']}{place}")
