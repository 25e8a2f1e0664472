"""The state of a tokenizer, its name, and those that this process can give; needs no Arrow, so that a learner needs none."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from .ids import canonical_json

at_hand: dict[str, Callable[[], str | None]] = {}
"""How to get the state of each tokenizer that this process was told of."""


def state_of(backend: Any) -> str:
    """The canonical JSON of a fast tokenizer, without padding and truncation, which trainers change."""
    state = json.loads(backend.to_str())
    state.pop("truncation", None)
    state.pop("padding", None)
    return canonical_json(state)


def hash_of(state: str) -> str:
    """Names a tokenizer by its state: 16 hex digits."""
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def offer(tokenizer_hash: str, state: Callable[[], str | None]) -> None:
    """Tells this process how to get the state of a tokenizer, so that a store which receives tokens of it keeps it."""
    at_hand[tokenizer_hash] = state
