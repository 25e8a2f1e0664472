"""Which fields of a record are its verdict: those with the name of a reward, never any number."""

from collections.abc import Sequence
from typing import Any

from .rollout import Row

REWARDS = ("reward", "rewards", "score")


def verdict(row: Row, named: Sequence[str] = ()) -> Row:
    """The columns `reward` and `reward_components` of a record; reward is None without one.

    Args:
        named: Fields that the user names as rewards. Their sum is the reward, and each is a component where there are several.

    Raises ValueError for a named field that a record lacks, and for a reward that is not a number.
    """
    if named:
        values = {name: _number(row, name) for name in named if row.get(name) is not None}
        parts = [{"name": name, "value": value, "weight": None} for name, value in values.items()] if len(named) > 1 else []  # fmt: skip
        return {"reward": sum(values.values()) if values else None, "reward_components": parts}
    name = next((name for name in REWARDS if row.get(name) is not None), None)
    parts = []
    if name is not None and isinstance(row[name], dict):
        parts = [{"name": key, "value": _number(row[name], key), "weight": None} for key, value in row[name].items() if value is not None]  # fmt: skip
        return {"reward": sum(part["value"] for part in parts) if parts else None, "reward_components": parts}
    return {"reward": None if name is None else _number(row, name), "reward_components": parts}


def _number(row: Row, name: str) -> float:
    value: Any = row[name]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, bool | int | float):
        raise ValueError(f"{name} is {value!r}, not a number")
    return float(value)
