"""Labels of a rollout and its messages: what the pages show, and the only thing that they write."""

from typing import Any

from ..base.errors import ConfigError
from ..queries.rollouts import label_rollout
from .reader import Reader

_TYPES = {"rollout": str, "label": str, "note": str, "author": str, "message": int, "remove": bool}


def of_rollout(reader: Reader, rollout_id: str) -> list[dict[str, Any]]:
    """message (position in `messages`, None for the rollout), label, note, author, created_at of the labels that hold."""
    query = (
        "SELECT message, label, note, author, created_at FROM current_labels WHERE rollout_id = $id ORDER BY created_at"
    )
    return reader.rows(query, id=rollout_id)


def write(reader: Reader, body: Any) -> dict[str, Any]:
    """Gives or takes away one label or note and returns the labels that then hold.

    Args:
        body: {rollout, label or note, message, author, remove}, as the arguments of `Store.label`.

    Raises ConfigError for another body, and what `Store.label` raises.
    """
    if not isinstance(body, dict) or not isinstance(body.get("rollout"), str):
        raise ConfigError("The body is not an object with a `rollout`.", "Send JSON.")
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name not in _TYPES or type(value) is not _TYPES[name]:
            raise ConfigError(f"The body's {name[:40]!r} is not expected.", f"Send {', '.join(_TYPES)}.")
    label = given.get("label")
    label_rollout(
        reader.store,
        given["rollout"],
        [label] if label is not None else [],
        message=given.get("message"),
        note=given.get("note"),
        author=given.get("author"),
        remove=given.get("remove", False),
    )
    return {"labels": of_rollout(reader, given["rollout"])}
