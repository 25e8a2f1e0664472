"""Named queries on a store whose every number is known."""

import math
import re

import pytest
from rollhouse.base.errors import ConfigError, StoreNotFound
from rollhouse.cli.common import Format, print_rows
from rollhouse.queries.named import list_queries, run_query
from rollhouse.queries.session import sql as run_sql
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.rows import sum_rollout, task_row

EASY, HARD = task_row()["task_id"], task_row("Add 7 and 8.")["task_id"]


def rows(store: LanceStore, name: str, columns: str, at: str | None = None, **params: object) -> list[tuple]:
    answer = run_query(store, name, params, at)
    return [tuple(row.values()) for row in answer.select(columns.split()).to_pylist()]


@pytest.mark.parametrize("query", list_queries(), ids=lambda query: query.name)
def test_every_query_has_a_question_and_runs_on_an_empty_store(query, tmp_path) -> None:
    assert query.purpose.endswith("?") and len(query.purpose) < 120
    assert all(parameter.doc for parameter in query.parameters)
    params = {parameter.name: "x" for parameter in query.parameters if parameter.default is None}
    store = LanceStore.create(tmp_path)
    if {"run", "dataset"} & set(params):
        with pytest.raises(StoreNotFound):
            run_query(store, query.name, params)
    else:
        assert run_query(store, query.name, params).num_rows == 0


def test_a_run_is_named_by_its_beginning_and_must_exist(store: LanceStore) -> None:
    assert run_query(store, "pass_rate_by_task", {"run": "eas"}).equals(
        run_query(store, "pass_rate_by_task", {"run": "easy"})
    )
    with pytest.raises(StoreNotFound):
        run_query(store, "pass_rate_by_task", {"run": "nope"})


def test_a_number_that_no_column_holds_is_refused(store: LanceStore) -> None:
    with pytest.raises(ConfigError):
        run_query(store, "longest_rollouts", {"limit": "9" * 24})


def test_pass_rate_by_task(store: LanceStore) -> None:
    columns = "task_id category rollouts passed pass_rate mean_reward"
    both = [(HARD, "large sums", 4, 1, 0.25, 0.25), (EASY, "sums", 4, 2, 0.5, 0.5)]
    assert rows(store, "pass_rate_by_task", columns) == both
    assert rows(store, "pass_rate_by_task", columns, run="easy") == both[1:]
    assert rows(store, "pass_rate_by_task", columns, at="easy") == both[1:]
    assert rows(store, "pass_rate_by_task", columns, environment="nowhere") == []


def test_pass_rate_by_step(store: LanceStore) -> None:
    columns = "run_id step rollouts pass_rate truncated"
    assert rows(store, "pass_rate_by_step", columns) == [("hard", 1, 2, 0.0, 0.5), ("hard", 2, 2, 0.5, 0.0)]


def test_reward_by_run(store: LanceStore) -> None:
    found = rows(store, "reward_by_run", "run_id kind environment rollouts mean_reward truncated failed")
    assert sorted(found) == [
        ("easy", "collect", "calculator", 4, 0.5, 0, 0),
        ("hard", "grpo", "calculator", 4, 0.25, 1, 0),
    ]


def test_tool_errors(store: LanceStore) -> None:
    columns = "tool calls errors error_rate unanswered"
    assert rows(store, "tool_errors", columns, run="easy") == [("divide", 1, 1, 1.0, 0), ("add", 4, 0, 0.0, 1)]


def test_failures_by_cause(store: LanceStore) -> None:
    found = rows(store, "failures_by_cause", "status cause rollouts example")
    assert found == [("error", "tool", 1, "broke"), ("truncated", "length", 1, None)]


def test_zero_variance_groups(store: LanceStore) -> None:
    assert rows(store, "zero_variance_groups", "run_id step n_scored mean_reward") == [("hard", 1, 2, 0.0)]


def test_training_curve(store: LanceStore) -> None:
    assert rows(store, "training_curve", "step name value", run="hard") == [
        (2, "train/loss", 0.1),
        (1, "train/reward", 0.0),
        (2, "train/reward", 0.5),
    ]
    assert len(rows(store, "training_curve", "step", run="hard", metric="train/loss")) == 1


def test_dataset_sources(store: LanceStore) -> None:
    columns = "version run_id policy_id role refs tasks mean_reward"
    wanted = [(1, "easy", "scripted", "demo", 2, 1, 1.0)]
    assert rows(store, "dataset_sources", columns, dataset="d") == wanted
    assert rows(store, "dataset_sources", columns, dataset="d", version="1") == wanted
    assert rows(store, "dataset_sources", columns, dataset="d", version=2) == []


def test_dataset_drops(store: LanceStore) -> None:
    columns = "version reason dropped"
    assert rows(store, "dataset_drops", columns, dataset="d") == [(1, "reward 0", 2), (1, "too long", 1)]
    with pytest.raises(StoreNotFound):
        rows(store, "dataset_drops", columns, dataset="other")


def test_pass_at_k(store: LanceStore) -> None:
    columns = "run_id groups pass_at_1 pass_at_k"
    # Two of four pass: 1 - C(2, 2) / C(4, 2). Groups of `hard` are of two, one without a pass, one with one.
    assert rows(store, "pass_at_k", columns, k=2) == [
        ("easy", 1, 0.5, pytest.approx(5 / 6)),
        ("hard", 2, 0.25, 0.5),
    ]
    assert rows(store, "pass_at_k", columns) == [("easy", 1, 0.5, 1.0)]
    assert rows(store, "pass_at_k", columns, k=5) == []


def test_reward_distribution(store: LanceStore) -> None:
    columns = "reward rollouts share passed"
    assert rows(store, "reward_distribution", columns) == [(0.0, 5, 0.625, 0), (1.0, 3, 0.375, 3)]
    assert rows(store, "reward_distribution", columns, run="easy", width=0.5) == [(0.0, 2, 0.5, 0), (1.0, 2, 0.5, 2)]


def test_a_reward_lies_in_the_bin_it_begins(duel: LanceStore) -> None:
    # 0.3 / 0.1 and 0.7 / 0.1 are a little less than 3 and 7.
    assert rows(duel, "reward_distribution", "reward rollouts") == [(0.3, 2), (0.7, 4)]


def test_longest_rollouts(store: LanceStore) -> None:
    found = rows(store, "longest_rollouts", "run_id n_tokens sampled turns", limit=2)
    assert found == [("easy", 9, 3, 2), ("easy", 4, 3, 2)]


def test_truncation_and_tool_errors(store: LanceStore) -> None:
    columns = "run_id rollouts truncated tool_calls tool_errors"
    assert rows(store, "truncation_and_tool_errors", columns) == [
        ("easy", 4, 0.0, 5, 0.2),
        ("hard", 4, 0.25, 4, None),
    ]


def test_cost_per_solved_task(store: LanceStore) -> None:
    columns = "run_id solved rollouts tokens_each seconds_each price_each"
    # Five attempts of three sampled tokens for one task; every one costs.
    assert rows(store, "cost_per_solved_task", columns, price=2, run="easy") == [("easy", 1, 5, 15.0, 2.5, 3e-5)]
    assert rows(store, "cost_per_solved_task", "price_each", run="hard") == [(None,)]


def test_policy_flips(duel: LanceStore) -> None:
    columns = "task_id category before after flip"
    assert rows(duel, "policy_flips", columns, before="weak", after="strong") == [
        (EASY, "sums", 0.0, 1.0, "gained"),
        (HARD, "sums", 1.0, 0.0, "lost"),
    ]
    assert rows(duel, "policy_flips", "flip", before="strong", after="weak") == [("gained",), ("lost",)]
    assert rows(duel, "policy_flips", "flip", before="weak", after="strong", solved=0) == []


def test_logprob_gap_by_step(store: LanceStore) -> None:
    ((step, tokens, mean, mean_abs, largest, kl),) = rows(
        store, "logprob_gap_by_step", "step tokens mean_gap mean_abs max_abs kl", run="hard"
    )
    # The engine has -0.5 -0.25 -0.125, the trainer -0.25 -0.25 -0.625 in the incarnation that counts.
    assert (step, tokens, mean_abs, largest) == (2, 3, 0.25, 0.5)
    assert mean == pytest.approx(-0.25 / 3)
    assert kl == pytest.approx((math.exp(0.25) - 1.25 + math.exp(-0.5) - 0.5) / 3)


def test_prompts_by_step(store: LanceStore) -> None:
    columns = "run_id step issued replacements from_history finished trained dropped reason"
    # Step 1 was noted as issued; step 2 was not, and one of its rollouts is too long.
    assert rows(store, "prompts_by_step", columns) == [
        ("hard", 1, 2, 1, 0, 1, 0, 0, None),
        ("hard", 2, 0, 0, 1, 1, 1, 0, None),
    ]
    found = store.read("rollouts", ["rollout_id", "step"], "run_id = 'hard'").to_pylist()
    states = run_sql(
        store, "select step, task_id, round, state, n_rollouts from prompt_ledger order by all"
    ).to_pylist()
    assert [tuple(row.values()) for row in states] == [
        (1, HARD, 0, "finished", 2),
        (1, "unplayed", 1, "issued", 0),
        (2, HARD, None, "trained", 2),
    ]
    assert len(found) == 4


def test_staleness_by_step(store: LanceStore) -> None:
    columns = "run_id step rollouts of_other_runs mean_age oldest oldest_last_token"
    assert rows(store, "staleness_by_step", columns) == [("hard", 2, 1, 0, 1.0, 1, 1)]
    assert rows(store, "staleness_by_step", columns, run="easy") == []


def test_advantage_by_category(store: LanceStore) -> None:
    columns = "run_id category rollouts kept mean_reward mean_advantage mean_size pushed_up pushed_down"
    assert rows(store, "advantage_by_category", columns) == [("hard", "large sums", 2, 1, 0.5, -1.0, 1.0, 0, 1)]


def test_curriculum_learnable(store: LanceStore) -> None:
    # Of `hard`, one of two rollouts of step 2 passed, none of step 1.
    assert rows(store, "curriculum_learnable", "task_id weight", run="hard", step=3, steps=1, untried=0.25) == sorted(
        [(EASY, 0.25), (HARD, 1.0)]
    )
    assert rows(store, "curriculum_learnable", "task_id", run="hard", step=2) == [(EASY,)]
    assert rows(store, "curriculum_learnable", "task_id", low=0.4) == [(EASY,)]


def test_curriculum_uncertain(store: LanceStore) -> None:
    assert rows(store, "curriculum_uncertain", "task_id weight") == sorted([(EASY, 0.25), (HARD, 0.1875)])


def test_failing_tool_calls(store: LanceStore) -> None:
    columns = "tool failures rollouts arguments answer"
    assert rows(store, "failing_tool_calls", columns) == [("divide", 1, 1, "{}", "Error: no tool divide")]
    assert rows(store, "failing_tool_calls", columns, run="hard") == []


def test_verdict_moves(store: LanceStore) -> None:
    columns = "before after rollouts reward_before reward_after rewards_moved"
    assert rows(store, "verdict_moves", columns, scorer="strict") == [("passed", "failed", 1, 1.0, 0.0, 1)]
    assert rows(store, "verdict_moves", columns, scorer="strict", version="1") == [("passed", "passed", 1, 1.0, 1.0, 0)]
    assert rows(store, "verdict_moves", columns, scorer="strict", against="strict", against_version="1") == [
        ("passed", "failed", 1, 1.0, 0.0, 1)
    ]
    assert rows(store, "verdict_moves", columns, scorer="strict", against="absent") == [
        ("none", "failed", 1, None, 0.0, 0)
    ]
    assert rows(store, "verdict_moves", columns, scorer="strict", run="hard") == []


def test_a_scorer_changes_what_a_query_counts(store: LanceStore) -> None:
    counted = run_query(store, "pass_rate_by_task", {"run": "easy"}, scorer="strict@1").to_pylist()
    assert [(row["rollouts"], row["passed"], row["pass_rate"]) for row in counted] == [(4, 1, 1.0)]


@pytest.mark.parametrize("query", list_queries(), ids=lambda query: query.name)
def test_answers_fit_a_terminal(store: LanceStore, duel: LanceStore, query, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    given = {"dataset": "d", "run": "hard", "before": "weak", "after": "strong", "scorer": "strict"}
    place = duel if query.name == "policy_flips" else store
    answer = run_query(place, query.name, {p.name: given[p.name] for p in query.parameters if p.default is None})
    assert answer.num_rows
    print_rows(answer, Format.table)
    head, body = re.split("[┡─]", capsys.readouterr().out, maxsplit=1)
    assert "…" not in head, head
    assert max(len(line) for line in body.splitlines()) <= 80


def test_wrong_parameters_are_named(store: LanceStore) -> None:
    with pytest.raises(ConfigError, match="no query 'pass_rate'") as caught:
        run_query(store, "pass_rate")
    assert "pass_rate_by_task" in caught.value.fix
    with pytest.raises(ConfigError, match="no parameter 'rum'"):
        run_query(store, "tool_errors", {"rum": "x"})
    with pytest.raises(ConfigError, match="needs run"):
        run_query(store, "training_curve")
    with pytest.raises(ConfigError, match="not of type integer"):
        run_query(store, "dataset_sources", {"dataset": "d", "version": "two"})


def test_failed_attempts_count_as_failures_and_nowhere_else(store: LanceStore) -> None:
    failed = sum_rollout("easy", 3).rollout_id
    answer = run_query(store, "failures_by_cause", {"run": "easy"})
    assert answer["example_id"].to_pylist() == [failed]
