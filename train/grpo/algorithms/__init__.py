"""Algorithms by name. Each file shows the mathematics of one and holds its preset: the settings of `grpo` and `loss_fn` that it differs in.

A new algorithm is a file here and an entry in ALGORITHMS. Nothing here imports torch when it is imported.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from . import cispo, dapo, dr_grpo, gdpo, grpo, gspo, icepop, reinforce_pp, rloo

ALGORITHMS: dict[str, Callable[[int], dict[str, Any]]] = {
    "grpo": grpo.settings,
    "dr_grpo": dr_grpo.settings,
    "dapo": dapo.settings,
    "gspo": gspo.settings,
    "gdpo": gdpo.settings,
    "cispo": cispo.settings,
    "rloo": rloo.settings,
    "reinforce_pp": reinforce_pp.settings,
    "icepop": icepop.settings,
}
"""Name → preset. A preset takes policy.max_total_sequence_length (tokens) and returns nested settings."""

DEFAULT_LENGTH = 1024
"""policy.max_total_sequence_length where it is not set."""


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration, with those of its algorithm's preset where they are not given. An unknown algorithm changes nothing."""
    preset = ALGORITHMS.get(str(values.get("algorithm", "grpo")))
    if preset is None:
        return dict(values)
    policy = _mapping(values.get("policy"))
    length = policy.get("max_total_sequence_length", DEFAULT_LENGTH)
    return _beneath(values, preset(length if isinstance(length, int) else DEFAULT_LENGTH))


def switched(values: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """A complete configuration as another algorithm makes it: every setting that a preset sets is as in the preset of this one, or at its default.

    Dynamic sampling stays as it was: it decides what is generated, not what is learned.
    """
    policy = _mapping(values.get("policy"))
    length = policy.get("max_total_sequence_length", DEFAULT_LENGTH)
    found: dict[str, Any] = dict(values)
    for preset in ALGORITHMS.values():
        found = _without(found, preset(length))
    found = _beneath(ALGORITHMS.get(algorithm, grpo.settings)(length), found)
    found["grpo"] = found["grpo"] | {"use_dynamic_sampling": values["grpo"]["use_dynamic_sampling"]}
    return found


def _beneath(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, and what only `defaults` has."""
    found = dict(values)
    for key, default in defaults.items():
        if isinstance(default, dict):
            if not isinstance(found.get(key, {}), (dict, BaseModel)):
                continue  # pydantic names the error
            found[key] = _beneath(_mapping(found.get(key)), default)
        else:
            found.setdefault(key, default)
    return found


def _without(values: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without the settings that `preset` has."""
    kept = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(preset.get(key), dict):
            kept[key] = _without(value, preset[key])
        elif key not in preset:
            kept[key] = value
    return kept


def _mapping(value: Any) -> dict[str, Any]:
    """A section as it was given: a mapping, or the fields that were set on a model."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return dict(value) if isinstance(value, dict) else {}
