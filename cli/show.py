"""`rollhouse show`: anything in the store by its id."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import AtOption, Format, FormatOption, StoreOption, open_store, print_rows, print_summary, say

if TYPE_CHECKING:
    from ..queries.shown import Shown

_TOKENS = 200
"""Tokens of a rollout that a table shows; JSON and CSV have all."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("show")(show)


def show(
    id: Annotated[str, typer.Argument(help="A rollout, group, task, run, checkpoint (RUN/step_N, RUN/best), dataset (NAME or NAME@V) or snapshot; the beginning of an id; latest.")],
    store: StoreOption = None,
    at: AtOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Show anything by its id: messages, calls, verdicts, advantages and tokens of a rollout; settings, metrics and checkpoints of a run; …

    Examples: `rollhouse show latest`; `rollhouse show 3f2a9c`; `rollhouse show grpo/best`.
    """
    from ..queries.shown import shown
    from ..train.checkpoints import whole_name

    place = open_store(store, at)
    found = shown(place, whole_name(place, id))
    if format is Format.json:
        print_rows([found.to_json()], format)
    elif format is Format.csv:
        facts = [{"part": found.kind, "what": name, "value": value} for name, value in found.facts.items()]
        print_rows([{"part": found.kind, "what": "id", "value": found.id}, *facts], format)
    else:
        print_shown(found)


def print_shown(found: "Shown") -> None:
    """Prints what an id stands for: its facts, then what belongs to it."""
    print_summary({"id": found.id} | found.facts, Format.table, found.kind)
    for title, rows in found.parts.items():
        if title == "messages":
            _print_messages(rows)
            continue
        kept = [row | {"text": _quoted(row["text"])} for row in rows[:_TOKENS]] if title == "tokens" else rows
        print_rows(kept, Format.table, title)
        if len(kept) < len(rows):
            say(f"{len(rows) - len(kept)} more tokens: --format json has all")


def _quoted(text: str | None) -> str | None:
    """A token's text with its white space visible."""
    return None if text is None else json.dumps(text, ensure_ascii=False)


def _print_messages(messages: list[dict[str, Any]]) -> None:
    """A conversation as text: who writes, the reasoning, the text and each call on a line of its own."""
    for message in messages:
        say(f"── {message['role']}")
        for text in (message["reasoning"], message["text"]):
            if text:
                say(str(text))
        for call in message["calls"] or ():
            say(f"→ {call['name']} {call['arguments']}")
