"""Preference pairs."""

import pytest
from rollhouse.base.errors import EmptyDataset
from rollhouse.transform.build import build_dpo
from rollhouse.transform.options import DpoOptions


def pairs(dataset) -> list[tuple[str, str]]:
    sides = {(row["row"], row["role"]): row["rollout_id"] for row in dataset.references.to_dicts()}
    return [(sides[row, "chosen"], sides[row, "rejected"]) for row in range(dataset.n_rows)]


def test_a_mixed_binary_group_makes_at_most_two_pairs(filled) -> None:
    good = {filled.rollout("a", 1.0, index) for index in (0, 1, 2)}
    bad = {filled.rollout("a", 0.0, index) for index in (3, 4, 5)}
    filled.rollout("solved", 1.0)
    filled.rollout("solved", 1.0, 1)
    dataset = build_dpo(filled.store, "pairs", filled.snapshot())
    assert dataset.n_rows == 2
    assert all(chosen in good and rejected in bad for chosen, rejected in pairs(dataset))
    assert len({rejected for _, rejected in pairs(dataset)}) == 2
    assert dataset.counts["dropped"] == {"no pair needed it": 2, "no worse response of its task": 2}


def test_a_timeout_is_not_a_worse_answer(filled) -> None:
    filled.rollout("a", 1.0)
    filled.rollout("a", 0.0, 1, status="timeout")
    with pytest.raises(EmptyDataset, match="no worse response"):
        build_dpo(filled.store, "pairs", filled.snapshot())


def test_pairs_cross_runs_but_not_prompts(filled) -> None:
    chosen = filled.rollout("a", 1.0, run="c1")
    rejected = filled.rollout("a", 0.0, run="c2", policy_id="other")
    filled.rollout("b", 0.0, run="c1")
    snapshot = filled.snapshot()
    assert pairs(build_dpo(filled.store, "pairs", snapshot)) == [(chosen, rejected)]
    with pytest.raises(EmptyDataset):
        build_dpo(filled.store, "own", snapshot, DpoOptions(same_policy=True))


def test_equal_responses_make_no_pair_and_no_response_is_rejected_twice(filled) -> None:
    filled.rollout("a", 1.0, 0, to="x")
    filled.rollout("a", 0.0, 1, to="x")
    filled.rollout("b", 1.0, 0)
    filled.rollout("b", 1.0, 1)
    filled.rollout("b", 0.0, 2, to="y")
    filled.rollout("b", 0.0, 3, to="y")
    dataset = build_dpo(filled.store, "pairs", filled.snapshot())
    assert dataset.n_rows == 1 and dataset.counts["tasks"] == 1


def test_the_nearest_miss_in_small_groups_and_two_sigma_in_large_ones(filled) -> None:
    small = {reward: filled.rollout("small", reward, index) for index, reward in enumerate((0.9, 0.6, 0.1))}
    rewards = (0.9, 0.8, 0.7, 0.65, 0.55, 0.5, 0.3, 0.0)  # mean 0.55, 2 std below it: 0.01
    large = {reward: filled.rollout("large", reward, index) for index, reward in enumerate(rewards)}
    options = DpoOptions(max_pairs_per_group=1)
    found = dict(pairs(build_dpo(filled.store, "pairs", filled.snapshot(), options)))
    assert found[small[0.9]] == small[0.6]
    assert found[large[0.9]] == large[0.0]


def test_the_length_ratio_is_off_unless_asked_for(filled) -> None:
    long = filled.rollout("a", 1.0, calls=4)
    short = filled.rollout("a", 0.0, 1, calls=1)
    snapshot = filled.snapshot()
    dataset = build_dpo(filled.store, "pairs", snapshot)
    assert pairs(dataset) == [(long, short)] and dataset.counts["chosen_longer"] == 1
    with pytest.raises(EmptyDataset, match=r"length ratio of 1\.5"):
        build_dpo(filled.store, "pairs", snapshot, DpoOptions(max_length_ratio=1.5))


def test_truncated_is_rejected_only_when_allowed_and_never_chosen(filled) -> None:
    filled.rollout("a", 1.0)
    filled.rollout("a", 0.0, 1, status="truncated")
    filled.rollout("b", 1.0, status="truncated")
    filled.rollout("b", 0.0, 1)
    snapshot = filled.snapshot()
    with pytest.raises(EmptyDataset):
        build_dpo(filled.store, "pairs", snapshot)
    dataset = build_dpo(filled.store, "pairs", snapshot, DpoOptions(allow_truncated_rejected=True))
    assert {row["task_id"] for row in dataset.references.to_dicts()} == {filled.tasks["a"].task_id}


def test_a_rollout_paired_with_itself_is_no_pair(filled) -> None:
    good, bad = filled.rollout("a", 1.0), filled.rollout("a", 0.0, 1)
    snapshot = filled.snapshot()
    itself = "SELECT rollout_id AS chosen_id, rollout_id AS rejected_id FROM rollouts"
    with pytest.raises(EmptyDataset, match="paired with itself"):
        build_dpo(filled.store, "itself", snapshot, DpoOptions(sql=itself))
    both = build_dpo(filled.store, "both", snapshot, DpoOptions(sql=f"{itself} UNION ALL SELECT '{good}', '{bad}'"))
    assert pairs(both) == [(good, bad)] and both.counts["dropped"] == {}
