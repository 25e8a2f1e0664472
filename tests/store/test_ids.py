"""Ids are the same on every machine and differ where rows differ."""

import json

from hypothesis import given
from hypothesis import strategies as st
from rollhouse.store import ids

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
)
SLOT = st.tuples(
    st.text("ab-", max_size=3), st.none() | st.integers(0, 9), st.text("xy", max_size=3), st.integers(0, 3), st.integers(0, 2)
)  # fmt: skip


def test_ids_of_known_rows_never_change() -> None:
    # A store written by an earlier version must recognise its rows: these are part of the format.
    assert ids.rollout_id("run", None, "task", 0) == "13c9dbb2792b4a9465117a4f3df2caff"
    assert ids.slot_id("run", 3, "task", 1) == "976aa48c4bf95feeb7b3dd6a6137e49d"
    assert ids.group_id("run", 3, "task") == "f84d53235f743515b53815285f7fb5ef"
    assert ids.prompt_id([{"role": "user", "content": "hé"}], []) == "26b43e1d8ce82b9695bdc78231e1f513"
    assert ids.task_id("env", "p", {"b": 1, "a": [2]}, None) == "d96165d00162bbfbc9862d5a7b2b5ac7"


@given(JSON)
def test_equal_values_hash_equal_whatever_the_order_of_keys(value: object) -> None:
    shuffled = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert ids.hash_id(shuffled) == ids.hash_id(value)
    assert len(ids.hash_id(value)) == 32


@given(SLOT, SLOT)
def test_different_slots_have_different_ids(one: tuple, other: tuple) -> None:
    assert (ids.rollout_id(*one) == ids.rollout_id(*other)) == (one == other)


@given(SLOT)
def test_attempts_share_a_slot_and_nothing_else(slot: tuple) -> None:
    run, step, task, sample, attempt = slot
    assert ids.rollout_id(run, step, task, sample, attempt) != ids.rollout_id(run, step, task, sample, attempt + 1)
    assert ids.slot_id(run, step, task, sample) != ids.slot_id(run, step, task, sample + 1)
    assert ids.group_id(run, step, task) not in (ids.slot_id(run, step, task, sample), ids.rollout_id(*slot))


@given(JSON, JSON)
def test_a_prompt_is_named_by_messages_and_ordered_tools(one: object, other: object) -> None:
    first, second = {"type": "function", "x": one}, {"type": "function", "x": [other]}
    assert ids.prompt_id([], [first, second]) != ids.prompt_id([], [second, first]) or first == second
