"""One rollout with everything that it refers to."""

from collections.abc import Sequence
from typing import Any

from ..base.errors import ConfigError, StoreNotFound
from ..store.labels import NOTE, Label, add_label
from ..store.lance_store import LanceStore, quote
from ..store.rollout import Rollout
from ..store.task import Prompt, Score, Task
from ..store.tokenizers import TokenTexts

_LISTED = 5


def load_rollout(store: LanceStore, rollout_id: str, at: str | None = None) -> Rollout:
    """A rollout with its prompt, task, prompt tokens and scores.

    Args:
        rollout_id: The id, or a prefix that only one rollout has.
        at: A snapshot's name or an ISO time; None is the version that the store was opened at.

    Raises StoreNotFound when no rollout has the id, ConfigError when several begin with the prefix, which lists some of them.
    """
    found = _full_id(store, rollout_id, at)
    (row,) = store.read("rollouts", filter=f"rollout_id = {quote(found)}", at=at).to_pylist()
    prompts = _rows(store, "prompts", f"prompt_id = {quote(row['prompt_id'] or '')}", at)
    prompt = Prompt.from_row(prompts[0]) if prompts else None
    tasks = _rows(store, "tasks", f"task_id = {quote(row['task_id'] or '')}", at)
    task = Task.from_row(tasks[0], prompt) if tasks and prompt is not None else None
    tokens = [
        tokens["token_ids"]
        for tokens in _rows(store, "prompt_tokens", f"prompt_id = {quote(row['prompt_id'] or '')}", at)
        if tokens["tokenizer_hash"] == row["tokenizer_hash"] and tokens["template_hash"] == row["template_hash"]
    ]
    scores = [Score.from_row(score) for score in _rows(store, "scores", f"rollout_id = {quote(found)}", at)]
    rollout = Rollout.from_row(row, prompt, task, tokens[0] if tokens else None, scores)
    rollout.read_texts_from(TokenTexts(store))
    return rollout


def label_rollout(
    store: LanceStore,
    rollout_id: str,
    labels: Sequence[str],
    *,
    message: int | None = None,
    note: str | None = None,
    author: str | None = None,
    remove: bool = False,
) -> list[dict[str, Any]]:
    """Gives a rollout or one of its messages labels and a note, or takes them away, and returns the rows of `labels` written.

    Args:
        rollout_id: The id, or a prefix that only one rollout has.
        labels: Tags; `star` is a star. Empty with `note`, or with `remove`, which then takes the author's note away.
        message: Position in the rollout's `messages`, from 0; None is the whole rollout.
        note: A text; it replaces the author's earlier note on the same place.
        author: None is the user of this process.

    Raises StoreNotFound for an unknown rollout, ConfigError when there is nothing to write or it cannot be stored.
    """
    names = [*labels, *([NOTE] if note is not None or (remove and not labels) else [])]
    if not names:
        raise ConfigError("There is neither a label nor a note.", "Name a label such as good, or give a note.")
    if NOTE in labels:
        raise ConfigError("`note` is the label of notes.", "Give the text of the note instead.")
    found = _full_id(store, rollout_id, None)
    return [
        add_label(store, Label(found, name, message, note if name == NOTE and not remove else None, author, remove))
        for name in names
    ]


def _full_id(store: LanceStore, rollout_id: str, at: str | None) -> str:
    condition = f"rollout_id = {quote(rollout_id)}"
    if _rows(store, "rollouts", condition, at, ["rollout_id"]):
        return rollout_id
    matches = (
        _rows(store, "rollouts", f"starts_with(rollout_id, {quote(rollout_id)})", at, ["rollout_id"])
        if rollout_id
        else []
    )
    if not matches:
        raise StoreNotFound(
            f"There is no rollout {rollout_id!r} in {store.uri}.", "`select rollout_id from rollouts` lists the ids."
        )
    if len(matches) > 1:
        some = ", ".join(match["rollout_id"] for match in matches[:_LISTED])
        more = f" and {len(matches) - _LISTED} more" if len(matches) > _LISTED else ""
        raise ConfigError(
            f"{len(matches)} rollouts have ids that begin with {rollout_id!r}: {some}{more}.", "Give more of the id."
        )
    return matches[0]["rollout_id"]


def _rows(
    store: LanceStore, table: str, condition: str, at: str | None, columns: list[str] | None = None
) -> list[dict]:
    return store.read(table, columns, filter=condition, at=at).to_pylist()
