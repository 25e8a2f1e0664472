"""Named queries on a house whose every number is known."""

import pytest
from rollhouse.queries.named import list_queries, run_query
from rollhouse.store.errors import ConfigError
from rollhouse.store.house import House
from rollhouse.tests.rows import rollout_row, task_row

EASY, HARD = task_row()["task_id"], task_row("Add 7 and 8.")["task_id"]


def rows(house: House, name: str, columns: str, at: str | None = None, **params: object) -> list[tuple]:
    answer = run_query(house, name, params, at)
    return [tuple(row.values()) for row in answer.select(columns.split()).to_pylist()]


@pytest.mark.parametrize("query", list_queries(), ids=lambda query: query.name)
def test_every_query_says_what_it_answers_and_runs_on_an_empty_house(query, tmp_path) -> None:
    assert query.purpose.endswith("?") and len(query.purpose) < 120
    assert all(parameter.doc for parameter in query.parameters)
    params = {parameter.name: "x" for parameter in query.parameters if parameter.default is None}
    assert run_query(House.create(tmp_path), query.name, params).num_rows == 0


def test_pass_rate_by_task(house: House) -> None:
    columns = "task_id category rollouts passed pass_rate mean_reward"
    both = [(HARD, "large sums", 4, 1, 0.25, 0.25), (EASY, "sums", 4, 2, 0.5, 0.5)]
    assert rows(house, "pass_rate_by_task", columns) == both
    assert rows(house, "pass_rate_by_task", columns, run="easy") == both[1:]
    assert rows(house, "pass_rate_by_task", columns, at="easy") == both[1:]
    assert rows(house, "pass_rate_by_task", columns, environment="nowhere") == []


def test_pass_rate_by_step(house: House) -> None:
    columns = "run_id step rollouts pass_rate truncated"
    assert rows(house, "pass_rate_by_step", columns) == [("hard", 1, 2, 0.0, 0.5), ("hard", 2, 2, 0.5, 0.0)]


def test_reward_by_run(house: House) -> None:
    found = rows(house, "reward_by_run", "run_id kind environment rollouts mean_reward truncated failed")
    assert sorted(found) == [
        ("easy", "collect", "calculator", 4, 0.5, 0, 0),
        ("hard", "grpo", "calculator", 4, 0.25, 1, 0),
    ]


def test_tool_errors(house: House) -> None:
    columns = "tool calls errors error_rate unanswered"
    assert rows(house, "tool_errors", columns, run="easy") == [("divide", 1, 1, 1.0, 0), ("add", 4, 0, 0.0, 1)]


def test_failures_by_cause(house: House) -> None:
    found = rows(house, "failures_by_cause", "status cause rollouts example")
    assert found == [("error", "tool", 1, "broke"), ("truncated", "length", 1, None)]


def test_zero_variance_groups(house: House) -> None:
    assert rows(house, "zero_variance_groups", "run_id step n_scored mean_reward") == [("hard", 1, 2, 0.0)]


def test_training_curve(house: House) -> None:
    assert rows(house, "training_curve", "step name value", run="hard") == [
        (2, "train/loss", 0.1),
        (1, "train/reward", 0.0),
        (2, "train/reward", 0.5),
    ]
    assert len(rows(house, "training_curve", "step", run="hard", metric="train/loss")) == 1


def test_dataset_sources(house: House) -> None:
    columns = "version run_id policy_id role refs tasks mean_reward"
    wanted = [(1, "easy", "scripted", "demo", 2, 1, 1.0)]
    assert rows(house, "dataset_sources", columns, dataset="d") == wanted
    assert rows(house, "dataset_sources", columns, dataset="d", version="1") == wanted
    assert rows(house, "dataset_sources", columns, dataset="d", version=2) == []


def test_what_is_asked_wrongly_is_named(house: House) -> None:
    with pytest.raises(ConfigError, match="no query 'pass_rate'") as caught:
        run_query(house, "pass_rate")
    assert "pass_rate_by_task" in caught.value.fix
    with pytest.raises(ConfigError, match="no parameter 'rum'"):
        run_query(house, "tool_errors", {"rum": "x"})
    with pytest.raises(ConfigError, match="needs run"):
        run_query(house, "training_curve")
    with pytest.raises(ConfigError, match="not of type integer"):
        run_query(house, "dataset_sources", {"dataset": "d", "version": "two"})


def test_failed_attempts_count_as_failures_and_nowhere_else(house: House) -> None:
    failed = rollout_row("easy", 3)["rollout_id"]
    answer = run_query(house, "failures_by_cause", {"run": "easy"})
    assert answer["example_id"].to_pylist() == [failed]
