"""Prompt sets."""

from dataclasses import replace

import polars as pl
import pytest
from rollhouse.base.errors import EmptyDataset, EvalLeak
from rollhouse.transform.build import build_grpo
from rollhouse.transform.explain import why
from rollhouse.transform.materialize import grpo_tasks
from rollhouse.transform.options import GrpoOptions


def fill(filled, task: str, solved: int, failed: int) -> str:
    for index in range(solved + failed):
        filled.rollout(task, float(index < solved), index)
    return filled.tasks[task].task_id


def test_always_and_never_solved_tasks_are_left_out(filled) -> None:
    mixed = [fill(filled, "m1", 1, 3), fill(filled, "m2", 3, 1)]
    always, never = fill(filled, "easy", 4, 0), fill(filled, "hard", 0, 4)
    filled.rollout("hard", 1.0, 9, status="error")
    dataset = build_grpo(filled.store, "prompts", filled.snapshot())
    assert sorted(row["task_id"] for row in dataset.references.to_dicts()) == sorted(mixed)
    dropped = {entry["id"]: entry["reason"] for entry in dataset.drops.to_dicts()}
    assert dropped[always] == "always solved" and dropped[never] == "never solved"
    assert "status is error" in dropped.values()
    of = {(row["task_id"], row["status"]): row["rollout_id"] for row in filled.store.read("rollouts").to_pylist()}
    assert why(filled.store, dataset, of[never, "error"])[0]["reason"] == "status is error"
    assert why(filled.store, dataset, of[always, "completed"])[0]["reason"] == "its task: always solved"
    assert why(filled.store, dataset, of[mixed[0], "completed"])[0]["in_dataset"]
    assert dataset.counts["inputs"] == 17 and dataset.counts["tasks_seen"] == 4
    tasks = grpo_tasks(filled.store, dataset)
    assert [task.task_id for task in tasks] == [row["task_id"] for row in dataset.references.to_dicts()]
    assert {task.source_key for task in tasks} == {"m1", "m2"} and tasks[0].ground_truth == [tasks[0].source_key]


def test_graded_rewards_that_differ_teach_although_no_task_is_solved(filled) -> None:
    filled.rollout("a", 0.2)
    filled.rollout("a", 0.7, 1)
    assert build_grpo(filled.store, "prompts", filled.snapshot()).n_rows == 1


def test_the_band_is_compared_with_an_interval_not_a_point(filled) -> None:
    few, many = fill(filled, "few", 3, 1), fill(filled, "many", 38, 2)
    options = GrpoOptions(pass_band=(0.2, 0.8))
    dataset = build_grpo(filled.store, "prompts", filled.snapshot(), options)
    assert [row["task_id"] for row in dataset.references.to_dicts()] == [few]
    assert {"id": many, "reason": "pass rate outside 0.2 to 0.8"} in dataset.drops.to_dicts()


def test_probes_samples_and_a_limit(filled) -> None:
    fill(filled, "m", 1, 1)
    fill(filled, "once", 1, 0)
    for number in range(4):
        fill(filled, f"easy{number}", 2, 0)
    snapshot = filled.snapshot()
    assert build_grpo(filled.store, "a", snapshot, GrpoOptions(keep_extremes=0.4)).n_rows == 3
    assert build_grpo(filled.store, "b", snapshot, GrpoOptions(keep_extremes=1.0, min_samples=2)).n_rows == 5
    assert build_grpo(filled.store, "c", snapshot, GrpoOptions(keep_extremes=1.0, max_prompts=3)).n_rows == 3


def test_nothing_mixed_is_an_error_that_says_so(filled) -> None:
    fill(filled, "easy", 2, 0)
    fill(filled, "hard", 0, 2)
    with pytest.raises(EmptyDataset, match="never solved"):
        build_grpo(filled.store, "prompts", filled.snapshot())


def test_held_out_tasks_of_a_version_by_other_hands_are_not_trained_on(filled) -> None:
    fill(filled, "few", 1, 1)
    held_out = filled.task("v", split="validation").task_id
    dataset = build_grpo(filled.store, "prompts", filled.snapshot())
    leaked = replace(dataset, references=dataset.references.with_columns(task_id=pl.lit(held_out)))
    with pytest.raises(EvalLeak, match="1 tasks of validation or test"):
        grpo_tasks(filled.store, leaked)
