"""Prompt sets: age, weights, curricula and mixes."""

from datetime import UTC, datetime, timedelta

import pytest
from rollhouse.train.grpo.prompts import prompts_of_step
from rollhouse.transform.build import build_grpo
from rollhouse.transform.materialize import grpo_tasks
from rollhouse.transform.options import GrpoOptions

from .test_grpo import fill


@pytest.fixture
def graded(filled) -> dict[str, str]:
    """Tasks solved 3, 2 and 1 times in 4."""
    return {name: fill(filled, name, good, 4 - good) for name, good in (("easy", 3), ("even", 2), ("hard", 1))}


def build(filled, **options):
    return build_grpo(filled.store, "prompts", filled.snapshot(), GrpoOptions(**options))


def names(filled, dataset) -> list[str]:
    return [task.source_key or "" for task in grpo_tasks(filled.store, dataset)]


def test_curricula_stand_in_order_and_are_taken_so(filled, graded) -> None:
    dataset = build(filled, order="easy_first")
    assert names(filled, dataset) == ["easy", "even", "hard"]
    assert names(filled, build_grpo(filled.store, "down", "s1", GrpoOptions(order="hard_first"))) == [
        "hard",
        "even",
        "easy",
    ]
    prompts = grpo_tasks(filled.store, dataset)
    taken = [prompts_of_step(prompts, step, 1, seed=0)[0].source_key for step in (1, 2, 3, 4)]
    assert taken == ["easy", "even", "hard", "easy"]


@pytest.mark.parametrize(("weights", "order"), [("hard", ["easy", "even", "hard"]), ("variance", ["easy", "even"])])
def test_weights_are_stored_with_mean_one_and_decide_how_often_a_prompt_is_drawn(
    filled, graded, weights, order
) -> None:
    dataset = build(filled, weights=weights)
    weight = {row["task_id"]: row["weight"] for row in dataset.references.to_dicts()}
    values = [weight[graded[name]] for name in order]
    assert values == sorted(values) and len(set(values)) == len(values)
    assert sum(weight.values()) == pytest.approx(len(weight))
    prompts = grpo_tasks(filled.store, dataset)
    drawn = [prompts_of_step(prompts, step, 1, seed=0)[0].source_key for step in range(1, 2001)]
    for name in graded:
        assert drawn.count(name) / 2000 == pytest.approx(weight[graded[name]] / 3, abs=0.04)
    both = prompts_of_step(prompts, 1, 2, seed=0)
    assert both == prompts_of_step(prompts, 1, 2, seed=0) and both[0] != both[1]


def test_rollouts_past_the_age_limit_say_nothing(filled) -> None:
    task = fill(filled, "a", 2, 2)
    other = fill(filled, "b", 2, 2)
    for row in filled.rollouts:
        row["policy_version"] = 1 if row["task_id"] == task else 9
    kept = build(filled, max_age_versions=3)
    assert kept.n_rows == 2 and kept.counts["samples"] == 4 and kept.counts["pass_rate_from"][0]["first_version"] == 9
    dropped = build_grpo(filled.store, "fresh", "s1", GrpoOptions(max_age_versions=3, stale="drop"))
    assert [row["task_id"] for row in dropped.references.to_dicts()] == [other]
    assert dropped.counts["dropped"] == {"past the age limit": 4}


def test_age_in_days_is_counted_from_the_newest_rollout(filled) -> None:
    fill(filled, "a", 1, 1)
    fill(filled, "b", 1, 1)
    now = datetime(2026, 1, 30, tzinfo=UTC)
    for row in filled.rollouts:
        row["started_at"] = now - timedelta(days=20 if row["task_id"] == filled.tasks["a"].task_id else 0)
    assert names(filled, build(filled, max_age_days=7, stale="drop")) == ["b"]


def test_zero_variance_may_stay_and_unknown_weighs_one(filled) -> None:
    fill(filled, "solved", 4, 0)
    fill(filled, "mixed", 1, 3)
    assert build(filled).n_rows == 1
    dataset = build_grpo(filled.store, "all", "s1", GrpoOptions(zero_variance="keep", weights="hard"))
    weight = {row["task_id"]: row["weight"] for row in dataset.references.to_dicts()}
    assert 0 < weight[filled.tasks["solved"].task_id] < 1 < weight[filled.tasks["mixed"].task_id]


def test_the_mix_of_categories(filled) -> None:
    for category, count in (("mail", 6), ("calendar", 3), ("crm", 2)):
        for number in range(count):
            filled.task(f"{category}{number}", category=category)
            fill(filled, f"{category}{number}", 1, 1)
    dataset = build(filled, category_mix={"mail": 1, "calendar": 1})
    kinds = [task.category for task in grpo_tasks(filled.store, dataset)]
    assert kinds.count("mail") == kinds.count("calendar") == 3 and "crm" not in kinds
    assert dataset.counts["dropped"] == {"over its category's share": 3, "not in the category mix": 2}
    assert build_grpo(filled.store, "quota", "s1", GrpoOptions(max_per_category=2)).n_rows == 6


def test_tasks_that_sql_names(filled, graded) -> None:
    query = "SELECT task_id FROM tasks WHERE source_key <> 'even'"
    assert sorted(names(filled, build(filled, sql=query))) == ["easy", "hard"]
