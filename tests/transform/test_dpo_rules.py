"""How pairs are found, one way at a time, on a few known rollouts."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import EmptyDataset
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.transform.build import build_dpo
from rollhouse.transform.materialize import dpo_rows
from rollhouse.transform.options import DpoOptions

from .conftest import Filled
from .test_dpo import pairs

NUMBERS = count(1)
REWARDS = (1.0, 0.9, 0.6, 0.3, 0.1)


def made(filled, **options) -> list[tuple[str, str]]:
    snapshot = filled.snapshot(f"made{next(NUMBERS)}")
    return pairs(build_dpo(filled.store, "pairs", snapshot, DpoOptions(**options)))


@pytest.fixture
def graded(filled) -> dict[float, str]:
    """One task with rollouts of REWARDS."""
    return {reward: filled.rollout("a", reward, index) for index, reward in enumerate(REWARDS)}


def test_best_against_worst(filled, graded) -> None:
    assert made(filled, pairing="best_worst") == [(graded[1.0], graded[0.1])]


def test_the_ith_best_against_the_ith_worst(filled, graded) -> None:
    found = made(filled, pairing="ranked", max_pairs_per_group=None)
    assert set(found) == {(graded[1.0], graded[0.1]), (graded[0.9], graded[0.3])}


def test_two_sigma_is_the_one_nearest_below_the_mean(filled, graded) -> None:
    # Mean 0.58, standard deviation 0.34: the target is -0.11, and 0.1 is nearest.
    assert made(filled, pairing="two_sigma", max_pairs_per_group=1) == [(graded[1.0], graded[0.1])]
    assert made(filled, pairing="nearest_miss", max_pairs_per_group=1) == [(graded[1.0], graded[0.6])]


def test_all_pairs_above_a_margin_the_widest_first(filled, graded) -> None:
    found = made(filled, pairing="all", min_gap=0.3, max_pairs_per_group=None)
    expected = {(a, b) for a in (1.0, 0.9, 0.6) for b in REWARDS if a - b > 0.29}
    assert set(found) == {(graded[a], graded[b]) for a, b in expected}
    two = made(filled, pairing="all", min_gap=0.3, max_pairs_per_group=2)
    assert set(two) == {(graded[1.0], graded[0.1]), (graded[0.9], graded[0.1])}


def test_a_margin_holds_for_rewards_of_32_bits(filled) -> None:
    chosen, rejected = filled.rollout("a", 0.9), filled.rollout("a", 0.7, 1)
    assert made(filled, min_gap=0.2) == [(chosen, rejected)]
    with pytest.raises(EmptyDataset, match="no worse response"):
        made(filled, min_gap=0.21)


def test_pairs_of_one_policy_and_one_version(filled) -> None:
    chosen = filled.rollout("a", 1.0, 0, policy_version=3)
    older = filled.rollout("a", 0.0, 1, policy_version=1)
    same = filled.rollout("a", 0.0, 2, policy_version=3)
    assert made(filled, same_version=True) == [(chosen, same)]
    assert {rejected for _, rejected in made(filled, same_policy=True, pairing="all")} == {older, same}


def test_pairs_that_a_recipe_names(filled, graded) -> None:
    query = f"SELECT '{graded[0.6]}' AS chosen_id, '{graded[0.9]}' AS rejected_id"
    dataset = build_dpo(filled.store, "pairs", filled.snapshot(), DpoOptions(sql=query))
    assert pairs(dataset) == [(graded[0.6], graded[0.9])] and dataset.counts["mean_gap"] == pytest.approx(-0.3)
    assert dataset.counts["dropped"] == {"the recipe does not name it": 3}


def calls(*steps: str) -> list[dict]:
    """One call a step, each answered, then a sentence; ids of calls differ from rollout to rollout."""
    messages = []
    for number, to in enumerate(steps):
        call = ToolCall(f"call_{id(steps)}_{number}", "send", f'{{"to": "{to}"}}')
        messages += [Message("assistant", "", (call,)), Message("tool", f"sent {to}", tool_call_id=call.id)]
    return [message.to_row() for message in [*messages, Message("assistant", "Done.")]]


def test_steps_are_told_apart_by_what_became_of_those_who_took_them(filled) -> None:
    ways = {("ann", "bob"): (1.0, 1.0), ("ann", "eve"): (0.0, 1.0, 0.0, 0.0), ("joe", "bob"): (0.0,)}
    ids: dict[tuple[str, ...], list[str]] = {}
    for way, rewards in ways.items():
        for reward in rewards:
            index = sum(map(len, ids.values()))
            ids.setdefault(way, []).append(filled.rollout("a", reward, index, messages=calls(*way)))
    dataset = build_dpo(filled.store, "steps", filled.snapshot(), DpoOptions(pairing="step", min_gap=0.5))
    ((chosen, rejected),) = pairs(dataset)
    assert chosen in ids["ann", "bob"] and rejected in ids["ann", "eve"]
    assert dataset.counts["mean_gap"] == 0.75  # 1 after bob, 1/4 after eve
    (pair,) = dpo_rows(filled.store, dataset)
    assert [message.role for message in pair.chosen.prompt] == ["system", "user", "assistant", "tool"]
    assert [side.messages[0].tool_calls[0].arguments for side in (pair.chosen, pair.rejected)] == ['{"to": "bob"}', '{"to": "eve"}']  # fmt: skip
    assert len(pair.chosen.messages) == 1 and pair.chosen.prompt == pair.rejected.prompt
    rest = build_dpo(filled.store, "rest", "s1", DpoOptions(pairing="step", min_gap=0.5, step_scope="rest"))
    assert [m.role for m in dpo_rows(filled.store, rest)[0].rejected.messages] == ["assistant", "tool", "assistant"]
    first = build_dpo(filled.store, "first", "s1", DpoOptions(pairing="step", min_gap=0.5, min_shared_turns=0))
    assert first.n_rows == 2


def test_steps_keep_the_tokens_that_were_sampled(filled) -> None:
    tokens = {"tokenizer_hash": "t", "template_hash": "c", "prefix_ok": True, "loss_mask": [1, 1, 0, 0, 1, 1, 0, 1]}
    for index, (way, reward) in enumerate({("ann", "bob"): 1.0, ("ann", "eve"): 0.0}.items()):
        ids = [1, 2, 3, 4, 50 + index, 6, 7, 8]
        filled.rollout("a", reward, index, messages=calls(*way), token_ids=ids, **tokens)
    filled.write()
    prompt = filled.tasks["a"].prompt_id
    rendered = {"row_id": "r", "prompt_id": prompt, "tokenizer_hash": "t", "template_hash": "c", "token_ids": [9, 9]}
    append_rows(filled.store, "prompt_tokens", [rendered])
    dataset = build_dpo(filled.store, "steps", filled.snapshot(), DpoOptions(pairing="step"))
    (pair,) = dpo_rows(filled.store, dataset)
    assert pair.chosen.prompt_ids == pair.rejected.prompt_ids == [9, 9, 1, 2, 3, 4]
    assert (pair.chosen.token_ids, pair.rejected.token_ids) == ([50, 6], [51, 6]) and pair.chosen.loss_mask == [1, 1]


@settings(max_examples=8, deadline=None)
@given(
    groups=st.lists(
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=9), min_size=1, max_size=3
    ),
    pairing=st.sampled_from(["auto", "nearest_miss", "two_sigma", "best_worst", "ranked", "all"]),
    most=st.integers(1, 3),
)
def test_what_every_way_of_pairing_promises(tmp_path_factory, groups, pairing, most) -> None:
    filled = Filled(LanceStore.create(tmp_path_factory.mktemp("store")))
    rewards = {
        filled.rollout("sure", 1.0): 1.0,
        filled.rollout("sure", 0.0, 1): 0.0,
        filled.rollout("sure", 0.5, 2): 0.5,
    }
    for task, group in enumerate(groups):
        for index, reward in enumerate(group):
            rewards[filled.rollout(str(task), reward, index)] = reward
    options = DpoOptions(pairing=pairing, max_pairs_per_group=most)
    dataset = build_dpo(filled.store, "pairs", filled.snapshot(), options)
    task_of = {row["rollout_id"]: row["task_id"] for row in dataset.references.to_dicts()}
    found = pairs(dataset)
    for chosen, rejected in found:
        assert task_of[chosen] == task_of[rejected] and rewards[chosen] >= 0.5
        assert rewards[chosen] - rewards[rejected] >= dataset.counts["min_gap"]
    per_task = [task_of[chosen] for chosen, _ in found]
    assert max(map(per_task.count, per_task)) <= most and len(found) == len(set(found))
    if pairing != "all":
        assert len({rejected for _, rejected in found}) == len(found) == len({chosen for chosen, _ in found})
