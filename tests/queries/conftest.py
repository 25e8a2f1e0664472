"""A store whose every number is known."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout, sum_task


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """Run `easy`: one task, rewards 1 1 0 0, the last after a failed first attempt. Snapshot `easy`. Run `hard`: two steps of
    another task, rewards 0 0 then 0 1. Scores and a batch plan of run `hard`."""
    store = LanceStore.create(tmp_path_factory.mktemp("queries") / "store")
    with start_run(store, "collect", "easy", {"limit": 1}) as run, RolloutWriter(store, run) as writer:
        for i, reward in enumerate((1.0, 1.0, 0.0)):
            writer.add(sum_rollout("easy", i, reward=reward, passed=reward == 1.0, duration_s=0.5))
        failed: dict[str, Any] = dict(
            status="error", error_type="tool", error_message="broke", reward=None, passed=None, duration_s=0.5
        )
        writer.add(sum_rollout("easy", 3, **failed))
        wrong: dict[str, Any] = dict(n_tool_errors=1, n_tokens=9, n_turns=2, duration_s=0.5, messages=wrong_call())
        writer.add(sum_rollout("easy", 3, attempt=1, reward=0.0, passed=False, **wrong))
        run.finish({"rollouts": 4})
    create_snapshot(store, "easy")
    text = "Add 7 and 8."
    with start_run(store, "grpo", "hard") as run, RolloutWriter(store, run) as writer:
        for step, rewards in ((1, (0.0, 0.0)), (2, (0.0, 1.0))):
            for i, reward in enumerate(rewards):
                status: dict[str, Any] = {"status": "truncated", "stop_reason": "length"} if (step, i) == (1, 0) else {}
                rollout = sum_rollout(
                    "hard", i, text=text, step=step, reward=reward, passed=reward == 1.0, policy_id="hard", **status
                )
                writer.add(rollout.changed(task=sum_task(text, "large sums"), n_tool_errors=None))
        for number, task in enumerate((sum_task(text).task_id, "unplayed")):
            run.note({"issued": {"step": 1, "round": number, "policy_version": 0, "task_ids": [task]}})
        run.metrics(1, {"train/reward": 0.0})
        run.metrics(2, {"train/reward": 0.5, "train/loss": 0.1})
    add_training(store, text)
    add_scores(store)
    rows = [{"rollout_id": sum_rollout("easy", i).rollout_id, "role": "demo", "row": i} for i in range(2)]
    dropped = [{"id": str(i), "reason": reason} for i, reason in enumerate(("reward 0", "too long", "reward 0"))]
    dataset = {"row_id": "d", "name": "d", "version": 1, "snapshot": "easy", "rows": rows, "dropped": dropped}
    append_rows(store, "datasets", [dataset])
    return store


@pytest.fixture(scope="module")
def duel(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """Policies `weak` and `strong` on two tasks each solves one of, and on one that both solve; rewards of 0.3 and 0.7."""
    store = LanceStore.create(tmp_path_factory.mktemp("duel") / "store")
    with start_run(store, "collect", "duel") as run, RolloutWriter(store, run) as writer:
        for i, (policy, text, passed) in enumerate(
            (
                ("weak", "Add 1 and 2.", False), ("strong", "Add 1 and 2.", True),
                ("weak", "Add 7 and 8.", True), ("strong", "Add 7 and 8.", False),
                ("weak", "Add 3 and 3.", True), ("strong", "Add 3 and 3.", True),
            )
        ):  # fmt: skip
            reward = 0.7 if passed else 0.3
            writer.add(sum_rollout("duel", i, text=text, policy_id=policy, passed=passed, reward=reward))
    return store


def wrong_call() -> list[Message]:
    return [
        Message("assistant", None, (ToolCall("call_0", "divide", "{}"), ToolCall("call_1", "add", "{}"))),
        Message("tool", "Error: no tool divide", tool_call_id="call_0"),
    ]


def add_training(store: LanceStore, text: str) -> None:
    ids = [sum_rollout("hard", i, text=text, step=2).rollout_id for i in range(2)]
    entries = [
        {"rollout_id": ids[0], "group_id": "g", "reward": 0.0, "advantage": -1.0, "kept": True, "micro_batch": 0},
        {"rollout_id": ids[1], "group_id": "g", "reward": 1.0, "kept": False, "reason": "too long"},
    ]
    append_rows(
        store, "batch_plans", [{"row_id": "p", "run_id": "hard", "step": 2, "policy_version": 1, "entries": entries}]
    )
    output = ([0.0, 0.0, 0.0], [-0.25, -0.25, -0.625])
    for incarnation, ratio in ((0, 1.5), (1, 1.25)):
        outcome = {"row_id": f"o{incarnation}", "run_id": "hard", "incarnation": incarnation, "step": 2, "use_index": 0}
        append_rows(
            store,
            "training_outcomes",
            [outcome | {"rollout_id": ids[0], "ratio_mean": ratio, "trainer_logprobs": output[incarnation]}],
        )


def add_scores(store: LanceStore) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    id = sum_rollout("easy", 0).rollout_id
    for number, (scorer, version, reward) in enumerate(
        (("strict", "1", 1.0), ("strict", "2", 0.0), ("kind", "1", 0.5))
    ):
        score = {"row_id": str(number), "rollout_id": id, "scorer": scorer, "scorer_version": version}
        append_rows(
            store,
            "scores",
            [score | {"reward": reward, "passed": reward == 1.0, "created_at": now + timedelta(hours=number)}],
        )
