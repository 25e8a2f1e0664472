"""Labels, stars and notes that people give to rollouts and messages: rows of `labels`, appended, the newest of each counts."""

import getpass
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..base.errors import ConfigError, StoreNotFound
from .appending import append_rows
from .ids import hash_id
from .lance_store import LanceStore, quote
from .tables import LABELS

STAR, NOTE = "star", "note"
MAX_LABEL, MAX_NOTE, MAX_AUTHOR = 64, 10_000, 128
"""Characters."""


@dataclass(frozen=True)
class Label:
    """What one person says about a rollout or a message.

    Attributes:
        rollout_id: The rollout.
        label: A tag of at most MAX_LABEL characters; `star` is a star, `note` a note.
        message: Position in the rollout's `messages`, from 0; None is the whole rollout.
        note: The text of a note; None for every other label.
        author: Who gives it; None is the user of this process.
        removed: Whether it takes the label away.
    """

    rollout_id: str
    label: str
    message: int | None = None
    note: str | None = None
    author: str | None = None
    removed: bool = False


def add_label(store: LanceStore, label: Label) -> dict[str, Any]:
    """Appends the label and returns its row. An author's later label on the same place replaces the earlier one.

    Raises StoreNotFound for an unknown rollout, ConfigError for a message that it does not have or a label that cannot be stored,
    WriteConflict for a store that was opened in the past.
    """
    row = _row(label)
    columns = ["rollout_id", *(["messages"] if label.message is not None else [])]
    found = store.read("rollouts", columns, f"rollout_id = {quote(label.rollout_id)}")
    if not found.num_rows:
        raise StoreNotFound(f"There is no rollout {label.rollout_id!r} in {store.uri}.", "`select rollout_id from rollouts` lists the ids.")  # fmt: skip
    if label.message is not None:
        messages = len(found["messages"][0].as_py() or ())
        if not 0 <= label.message < messages:
            raise ConfigError(
                f"The rollout has no message {label.message}.", f"It has {messages}, counted from 0 after the prompt."
            )
    store.create_table(LABELS)
    append_rows(store, "labels", [row])
    return row


def _row(label: Label) -> dict[str, Any]:
    author = label.author if label.author is not None else _user()
    for what, text, most in (("label", label.label, MAX_LABEL), ("note", label.note or "", MAX_NOTE), ("author", author, MAX_AUTHOR)):  # fmt: skip
        if len(text) > most:
            raise ConfigError(f"The {what} has {len(text)} characters.", f"Use at most {most}.")
    if not label.label.strip() or not label.label.isprintable():
        raise ConfigError(f"{label.label!r} is not a label.", "Use printable characters.")
    if (label.label == NOTE) != (label.note is not None) and not label.removed:
        raise ConfigError(
            "Only the label `note` has a text.", "Give the text as `note`, and a tag as a label of its own."
        )
    created_at = datetime.now(UTC)
    return {
        "row_id": hash_id(label.rollout_id, label.message, label.label, author, created_at.isoformat()),
        "rollout_id": label.rollout_id,
        "message": label.message,
        "label": label.label,
        "note": None if label.removed else label.note,
        "author": author,
        "removed": label.removed,
        "created_at": created_at,
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for its user
        return "unknown"
