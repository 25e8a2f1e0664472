"""Evaluation on an environment: rollouts are kept, each is a row, the numbers are those of the rollouts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, EngineError, EvaluationError
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.eval.environment import evaluate_policy
from rollhouse.policies.chat import TemplateError
from rollhouse.policies.engines.base import EngineRefused, PromptTooLong
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run

ENVIRONMENT = MiniEnvironment(seed=3, n_validation=18)
TASKS = list(ENVIRONMENT.tasks("validation"))


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def test_a_perfect_policy_passes_everything(store: LanceStore) -> None:
    with start_run(store, "eval", "perfect") as run:
        summary = evaluate_policy(store, run, ENVIRONMENT, ScriptedPolicy(), TASKS)
    assert (summary.pass_rate, summary.stderr, summary.n, summary.n_tasks) == (1.0, 0.0, 18, 18)
    assert summary.pass_at_k == {1: 1.0} and summary.mean_reward == 1.0 and summary.errors == {}
    assert set(summary.by_category) == {task.category for task in TASKS}


def test_rows_are_the_rollouts(store: LanceStore) -> None:
    policy = ScriptedPolicy(mistake_rate=0.5, seed=1)
    with start_run(store, "eval", "half") as run:
        summary = evaluate_policy(store, run, ENVIRONMENT, policy, TASKS, "sampled", 4)
    rows = store.read("evaluations").to_pylist()
    rollouts = {row["rollout_id"]: row for row in store.read("rollouts").to_pylist()}
    assert len(rows) == len(rollouts) == summary.n == 72
    for row in rows:
        rollout = rollouts[row["rollout_id"]]
        assert (row["case_id"], row["sample"]) == (rollout["task_id"], rollout["sample_index"])
        assert (row["passed"], row["score"]) == (rollout["passed"], rollout["reward"])
        assert (row["benchmark"], row["mode"], row["run_id"]) == ("workplace-mini", "sampled", "half")
    assert summary.pass_rate == pytest.approx(sum(row["passed"] for row in rows) / 72)
    assert 0.2 < summary.pass_rate < 0.8 and summary.stderr > 0
    assert summary.pass_rate < summary.pass_at_k[2] < summary.pass_at_k[4]


def test_evaluating_again_adds_nothing(store: LanceStore) -> None:
    summaries = []
    for _ in range(2):
        with start_run(store, "eval", "again") as run:
            summaries.append(evaluate_policy(store, run, ENVIRONMENT, ScriptedPolicy(0.5), TASKS, "sampled", 2))
    assert summaries[0] == summaries[1]
    assert store.read("evaluations").num_rows == store.read("rollouts").num_rows == 36


class Unreliable(ScriptedPolicy):
    """Raises `error` for the tasks that `fails` names."""

    def __init__(self, fails: Callable[[str], bool], error: Exception | None = None) -> None:
        super().__init__()
        self.fails = fails
        self.error = error or EngineError("The endpoint is down.")

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        if self.fails(conversation.task.task_id):
            raise self.error
        return await super().respond(conversation, sampling)


def test_what_the_engine_left_out_is_requested_again_and_never_counted(store: LanceStore) -> None:
    first = TASKS[0].task_id
    with pytest.raises(EvaluationError, match="1 of 18 rollouts"), start_run(store, "eval", "flaky") as run:
        evaluate_policy(store, run, ENVIRONMENT, Unreliable(lambda task: task == first), TASKS)
    assert first not in store.read("evaluations")["case_id"].to_pylist()
    with start_run(store, "eval", "flaky") as run:
        summary = evaluate_policy(store, run, ENVIRONMENT, Unreliable(lambda task: False), TASKS)
    assert (summary.n, summary.pass_rate) == (18, 1.0)
    assert store.read("rollouts").num_rows == 19  # one slot has two attempts


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (EngineRefused("Not this."), "engine_refused"),
        (PromptTooLong("The context is 512 tokens."), "prompt_too_long"),
        (TemplateError("It cannot render."), "template"),
    ],
)
def test_what_the_engine_refuses_is_a_failed_case_and_not_requested_again(
    store: LanceStore, error: Exception, error_type: str
) -> None:
    first = TASKS[0].task_id
    for _ in range(2):
        with start_run(store, "eval", "r") as run:
            summary = evaluate_policy(store, run, ENVIRONMENT, Unreliable(lambda task: task == first, error), TASKS)
        assert (summary.n, summary.errors) == (18, {error_type: 1}) and summary.pass_rate == pytest.approx(17 / 18)
    assert store.read("rollouts").num_rows == 18


def test_a_run_holds_one_policy_and_mode(store: LanceStore) -> None:
    with start_run(store, "eval", "one") as run:
        evaluate_policy(store, run, ENVIRONMENT, ScriptedPolicy(), TASKS[:2])
    with start_run(store, "eval", "one") as run, pytest.raises(ConfigError, match="holds an evaluation of scripted-0"):
        evaluate_policy(store, run, ENVIRONMENT, ScriptedPolicy(), TASKS[:2], "sampled")
    with start_run(store, "eval", "one") as run, pytest.raises(ConfigError, match="--run name"):
        evaluate_policy(store, run, ENVIRONMENT, ScriptedPolicy(0.5), TASKS[:2])


@pytest.mark.parametrize(
    ("mode", "samples", "sampling", "tasks", "message"),
    [
        ("best", 1, None, TASKS, "no evaluation mode"),
        ("greedy", 2, None, TASKS, "2 rollouts per task"),
        ("sampled", 0, None, TASKS, "0 rollouts per task"),
        ("greedy", 1, Sampling(temperature=0.7), TASKS, "Temperature 0.7"),
        ("sampled", 2, Sampling(temperature=0.0), TASKS, "Temperature 0"),
        ("greedy", 1, None, [], "no tasks"),
    ],
)
def test_requests_that_make_no_sense(store: LanceStore, mode: str, samples: int, sampling, tasks, message: str) -> None:
    with start_run(store, "eval") as run, pytest.raises(ConfigError, match=message):
        evaluate_policy(store, run, ENVIRONMENT, ScriptedPolicy(), tasks, mode, samples, sampling=sampling)
    assert store.read("rollouts").num_rows == 0
