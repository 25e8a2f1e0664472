"""Demonstrations: which rollouts get in, in what order, and why the others do not."""

from itertools import pairwise

import pytest
from rollhouse.base.errors import ConfigError, EmptyDataset, EvalLeak, StoreNotFound
from rollhouse.transform.build import build_sft
from rollhouse.transform.explain import why
from rollhouse.transform.options import SftOptions
from rollhouse.transform.versions import DatasetVersion


def reasons(dataset: DatasetVersion) -> dict[str, str]:
    return {entry["id"]: entry["reason"] for entry in dataset.drops.to_dicts()}


def test_each_filter_leaves_its_reason(filled) -> None:
    good = filled.rollout("a", 1.0)
    out = {
        filled.rollout("a", 0.0, 1): "reward below 1",
        filled.rollout("a", None, 2): "no reward",
        filled.rollout("a", float("nan"), 3): "reward is NaN or infinite",
        filled.rollout("b", 1.0, 4, status="timeout"): "status is timeout",
        filled.rollout("b", 1.0, 5, n_tool_errors=2): "more than 1 tool errors",
        filled.rollout("b", 1.0, 6, n_parse_failures=1): "a tool call did not parse",
        filled.rollout("b", 1.0, 7, trainable=False): "not the agent being trained",
        filled.rollout("c", 1.0, 8, attempt=0): "a later attempt took its place",
    }
    retried = filled.rollout("c", 1.0, 8, attempt=1)
    dataset = build_sft(filled.store, "demos", filled.snapshot())
    assert {row["rollout_id"] for row in dataset.references.to_dicts()} == {good, retried}
    assert reasons(dataset) == out
    assert dataset.counts["inputs"] == 10 and dataset.counts["rows"] == 2 and dataset.counts["tasks"] == 2
    assert dataset.counts["dropped"]["no reward"] == 1
    assert all(row["role"] == "demo" and row["weight"] == 1.0 for row in dataset.references.to_dicts())


def test_equal_responses_count_once_and_the_cap_prefers_other_paths(filled) -> None:
    for index in range(3):
        filled.rollout("a", 1.0, index, to="same")
    short = [filled.rollout("b", 1.0, index) for index in range(5)]
    long = filled.rollout("b", 1.0, 9, calls=3)
    options = SftOptions(per_task_cap=2)
    dataset = build_sft(filled.store, "demos", filled.snapshot(), options)
    chosen = {row["rollout_id"] for row in dataset.references.to_dicts()}
    assert dataset.counts["dropped"] == {"over 2 a task": 4, "same response as another rollout": 2}
    assert long in chosen and len(chosen & set(short)) == 1


def test_the_floor_is_one_for_binary_rewards_and_lower_otherwise(filled) -> None:
    filled.rollout("a", 1.0)
    high = filled.rollout("b", 0.95)
    filled.rollout("c", 0.5)
    snapshot = filled.snapshot()
    assert build_sft(filled.store, "auto", snapshot).counts["min_reward"] == 0.9
    assert high in {row["rollout_id"] for row in build_sft(filled.store, "auto", snapshot).references.to_dicts()}
    strict = build_sft(filled.store, "strict", snapshot, SftOptions(min_reward=1.0))
    assert strict.n_rows == 1


def test_held_out_tasks_are_refused_not_filtered(filled) -> None:
    filled.rollout("a", 1.0)
    filled.task("v", split="validation")
    filled.rollout("v", 0.0, run="looked")
    snapshot = filled.snapshot()
    with pytest.raises(EvalLeak, match=r"1 of the 2 .* validation .*looked.*--run c1"):
        build_sft(filled.store, "demos", snapshot)
    assert build_sft(filled.store, "demos", snapshot, SftOptions(runs=["c1"])).n_rows == 1
    assert build_sft(filled.store, "other", snapshot, SftOptions(where="split = 'train'")).n_rows == 1


def test_an_empty_set_names_the_filter_that_emptied_it(filled) -> None:
    filled.rollout("a", 0.0)
    filled.rollout("b", 1.0, status="error")
    snapshot = filled.snapshot()
    with pytest.raises(EmptyDataset, match=r"'reward below 1' dropped the last 1 of 2"):
        build_sft(filled.store, "demos", snapshot, SftOptions(min_reward=1.0))
    with pytest.raises(EmptyDataset, match="run_id absent"):
        build_sft(filled.store, "demos", snapshot, SftOptions(runs=["absent"]))


def test_why_says_what_became_of_a_rollout_or_task(filled) -> None:
    good, bad = filled.rollout("a", 1.0), filled.rollout("b", 0.0)
    elsewhere = filled.rollout("a", 1.0, run="c2")
    dataset = build_sft(filled.store, "demos", filled.snapshot(), SftOptions(runs=["c1"]))
    assert why(filled.store, dataset, good)[0]["role"] == "demo"
    assert why(filled.store, dataset, bad)[0]["reason"] == "reward below 1"
    assert why(filled.store, dataset, filled.tasks["b"].task_id)[0]["reason"] == "reward below 1 (1 rollouts)"
    assert "not among the runs" in why(filled.store, dataset, elsewhere)[0]["reason"]
    assert why(filled.store, dataset, bad[:12]) == why(filled.store, dataset, bad), "as tables print it: its beginning"


def test_an_id_is_as_much_of_it_as_no_other_begins_with(filled) -> None:
    ids = sorted(filled.rollout("a", 1.0, number) for number in range(17))
    dataset = build_sft(filled.store, "demos", filled.snapshot())
    first = next(id[0] for id, after in pairwise(ids) if id[0] == after[0])  # seventeen ids, sixteen digits
    with pytest.raises(ConfigError, match=f"begins with '{first}'"):
        why(filled.store, dataset, first)
    with pytest.raises(StoreNotFound):
        why(filled.store, dataset, "%")
