"""The runner: exactly the planned rollouts, whatever happens on the way."""

import asyncio
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.base.recipes import resolve
from rollhouse.collect.config import CollectConfig
from rollhouse.collect.job import run_job
from rollhouse.collect.rescore import rescore
from rollhouse.collect.runner import CollectSummary, collect, collect_async, failed
from rollhouse.environments.scorers import environment_scorer
from rollhouse.environments.shaping import RewardShaping
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.eval.config import EvaluationConfig
from rollhouse.eval.job import run_evaluation
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines.base import EngineGone
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.messages import Message
from rollhouse.store.runs import get_run, list_runs, start_run
from rollhouse.store.task import Task
from rollhouse.store.writer import RolloutWriter

OFFICE = MiniEnvironment(seed=0, n_train=30)
TASKS = list(OFFICE.tasks("train"))


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def rows_of(store: LanceStore, run: str = "r") -> list[dict[str, Any]]:
    return store.read("rollouts", filter=f"run_id = '{run}'").to_pylist()


def collect_run(
    store: LanceStore, policy: Any = None, tasks: list[Task] = TASKS, run: str = "r", **options: Any
) -> CollectSummary:
    with start_run(store, "collect", run) as opened:
        return collect(store, opened, OFFICE, policy or ScriptedPolicy(), tasks, **options)


class Breaks(ScriptedPolicy):
    """Plays the script, and from its n-th answer on raises."""

    def __init__(self, after: int, error: BaseException) -> None:
        super().__init__()
        self.left = after
        self.error = error

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        await asyncio.sleep(0.001)
        self.left -= 1
        if self.left < 0:
            raise self.error
        return await super().respond(conversation, sampling)


def test_every_planned_rollout_is_collected_once_with_what_it_refers_to(store: LanceStore) -> None:
    summary = collect_run(store, ScriptedPolicy(0.4), num_repeats=3, concurrency=7)
    rows = rows_of(store)
    assert len(rows) == len({row["rollout_id"] for row in rows}) == summary.collected == summary.planned == 90
    assert Counter(row["group_id"] for row in rows).most_common()[-1][1] == 3
    assert {(row["task_id"], row["sample_index"]) for row in rows} == {
        (task.task_id, i) for task in TASKS for i in range(3)
    }
    assert 0 < summary.passed < 90 and summary.reward_mean == summary.passed / 90
    tasks = {row["task_id"]: row for row in store.read("tasks").to_pylist()}
    prompts = {row["prompt_id"]: row for row in store.read("prompts").to_pylist()}
    for task in TASKS:
        kept = tasks[task.task_id]
        assert json.loads(kept["ground_truth"]) == task.ground_truth and json.loads(kept["state"]) == task.state
        prompt = prompts[kept["prompt_id"]]
        assert [Message.from_row(message) for message in prompt["messages"]] == list(task.messages)
        assert json.loads(prompt["tools"]) == list(task.tools)
    again = collect_run(store, ScriptedPolicy(0.4), num_repeats=3)
    assert (again.collected, again.skipped, len(rows_of(store))) == (0, 90, 90)


def test_a_run_that_lost_its_engine_goes_on_where_it_stopped(store: LanceStore) -> None:
    with pytest.raises(EngineGone):
        collect_run(store, Breaks(40, EngineGone("It is gone.")), num_repeats=2, concurrency=4)
    first = {row["rollout_id"] for row in rows_of(store)}
    assert 0 < len(first) < 60 and get_run(store, "r")["status"] == "failed"
    summary = collect_run(store, num_repeats=2)
    assert (summary.skipped, summary.collected) == (len(first), 60 - len(first))
    rows = rows_of(store)
    assert len(rows) == len({row["rollout_id"] for row in rows}) == 60 and {row["status"] for row in rows} == {
        "completed"
    }


def test_failures_are_rows_and_can_be_tried_again(store: LanceStore) -> None:
    summary = collect_run(store, Breaks(30, RuntimeError("hiccup")), concurrency=3)
    assert summary.statuses["error"] == summary.errors["engine"] > 0 and summary.collected == 30
    assert summary.last_error == "RuntimeError: hiccup"
    assert collect_run(store).collected == 0, "a failed rollout is not collected again by itself"
    again = collect_run(store, retry=failed)
    assert again.collected == summary.statuses["error"] and again.statuses["completed"] == again.collected
    retried = [row for row in rows_of(store) if row["attempt"] == 1]
    assert len(retried) == again.collected
    lost = {row["slot_id"] for row in rows_of(store) if row["status"] == "error"}
    assert {row["slot_id"] for row in retried} == lost


def test_cancelling_keeps_what_was_collected(store: LanceStore) -> None:
    async def cancelled() -> None:
        with start_run(store, "collect", "r") as run:
            work = collect_async(
                store, run, OFFICE, Breaks(50, asyncio.CancelledError()), TASKS, num_repeats=2, concurrency=4
            )
            await work

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert 0 < len(rows_of(store)) < 60 and get_run(store, "r")["status"] == "aborted"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollhouse-writer")]


def test_what_no_table_can_hold_is_a_row_with_an_error(store: LanceStore) -> None:
    class Odd(ScriptedPolicy):
        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            return Turn(Message("assistant", "half a pair \ud800"))

    summary = collect_run(store, Odd(), TASKS[:2])
    assert summary.errors == {"store": 2}
    row = rows_of(store)[0]
    assert (row["status"], row["error_type"], row["messages"], row["reward"]) == ("error", "store", None, None)


ODD = "half a pair \ud800"


@pytest.mark.parametrize(
    "odd",
    [
        replace(TASKS[0], messages=(Message("user", ODD),)),
        replace(TASKS[0], extra={"note": ODD}),
        replace(TASKS[0], category=ODD),
    ],
)
def test_a_task_no_table_can_hold_is_a_row_with_an_error_and_the_run_goes_on(store: LanceStore, odd: Task) -> None:
    summary = collect_run(store, tasks=[odd, *TASKS[1:4]], num_repeats=2)
    assert summary.errors == {"store": 2} and summary.statuses == {"error": 2, "completed": 6}
    row = next(row for row in rows_of(store) if row["status"] == "error")
    assert (row["task_id"], row["prompt_id"], row["messages"]) == (None, None, None)
    assert "surrogates not allowed" in row["error_message"] and check(store) == []
    again = collect_run(store, tasks=[odd, *TASKS[1:4]], num_repeats=2)
    assert (again.collected, again.skipped) == (0, 8)


def test_prompt_tokens_come_with_the_first_rollout_that_has_them(
    store: LanceStore, random_models: tuple[Path, Path]
) -> None:
    class FirstFails(TokenPolicy):
        failures = 1

        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("hiccup")
            return await super().respond(conversation, sampling)

    policy = FirstFails(TorchEngine(random_models[0], 1500), ChatFormat.of(random_models[0]), "weights")
    summary = collect_run(store, policy, TASKS[:1], num_repeats=2, sampling=Sampling(max_tokens=4), concurrency=1)
    assert summary.statuses["error"] == 1
    tokens = store.read("prompt_tokens").to_pylist()
    assert [row["token_ids"] for row in tokens] == [policy.chat.prompt_ids(TASKS[0])]


def test_steps_are_slots_of_their_own(store: LanceStore) -> None:
    with start_run(store, "grpo", "r") as run:
        for step in (1, 2, 2):
            collect(store, run, OFFICE, ScriptedPolicy(), TASKS[:4], num_repeats=2, step=step)
    assert Counter(row["step"] for row in rows_of(store)) == {1: 8, 2: 8}


def test_equal_tasks_fill_one_slot(store: LanceStore) -> None:
    assert collect_run(store, tasks=[*TASKS[:3], TASKS[0]]).planned == 3


def test_each_rollout_has_its_own_seed_and_the_same_one_next_time(
    store: LanceStore, random_models: tuple[Path, Path]
) -> None:
    engine = TorchEngine(random_models[0], max_model_len=1500)
    policy = TokenPolicy(engine, ChatFormat.of(random_models[0]), "weights")
    for run in ("r", "s"):
        collect_run(store, policy, TASKS[:2], run, num_repeats=2, sampling=Sampling(max_tokens=5, seed=3), max_turns=2)
    first, second = ({row["sampling_seed"] for row in rows_of(store, run)} for run in ("r", "s"))
    assert first == second and len(first) == 4
    tokens = store.read("prompt_tokens").to_pylist()
    assert {row["prompt_id"]: row["token_ids"] for row in tokens} == {
        task.prompt_id: policy.chat.prompt_ids(task) for task in TASKS[:2]
    }


def test_progress_reports_every_rollout(store: LanceStore) -> None:
    seen: list[tuple[str, int]] = []
    collect_run(store, on_done=lambda row, so_far: seen.append((row.rollout_id, so_far.collected)))
    assert [count for _, count in seen] == list(range(1, 31)) and len({one for one, _ in seen}) == 30


def test_less_than_one_rollout_a_task_is_refused(store: LanceStore) -> None:
    with pytest.raises(ConfigError, match="at least one rollout"):
        collect_run(store, run="s", num_repeats=0)


def test_a_token_budget_ends_the_beginning_of_rollouts_and_a_bigger_one_goes_on(
    store: LanceStore, random_models: tuple[Path, Path]
) -> None:
    policy = TokenPolicy(TorchEngine(random_models[0], 1500), ChatFormat.of(random_models[0]), "weights")
    options: dict[str, Any] = {"sampling": Sampling(max_tokens=4, seed=1), "max_turns": 1, "concurrency": 1}
    first = collect_run(store, policy, TASKS[:6], token_budget=9, **options)
    assert first.stopped == "token_budget" and 9 <= first.sampled_tokens < 9 + 4 and first.collected < 6
    again = collect_run(store, policy, TASKS[:6], token_budget=9, **options)
    assert (again.collected, again.skipped, again.stopped) == (0, first.collected, "token_budget")
    rest = collect_run(store, policy, TASKS[:6], token_budget=1000, **options)
    assert (rest.collected, rest.stopped) == (6 - first.collected, None) and len(rows_of(store)) == 6
    assert collect_run(store, policy, TASKS[:6], token_budget=1, **options).stopped is None, "nothing was left to begin"
    with pytest.raises(ConfigError, match="shows no tokens"):
        collect_run(store, ScriptedPolicy(), TASKS, "s", token_budget=9)
    assert len(rows_of(store, "s")) > 0, "what was collected before it was noticed is kept"


def test_a_shaped_reward_keeps_the_raw_verdict_beside_it(store: LanceStore) -> None:
    shaping = {OFFICE.name: RewardShaping(scale=2.0, penalties={"turn": 0.25})}  # type: ignore[arg-type]
    summary = collect_run(store, ScriptedPolicy(0.5), shaping=shaping)
    raw = {row["rollout_id"]: row for row in store.read("scores").to_pylist()}
    rows = rows_of(store)
    assert len(raw) == len(rows) == 30 and {row["reward"] for row in raw.values()} == {0.0, 1.0}
    for row in rows:
        verdict = raw[row["rollout_id"]]
        assert row["reward"] == pytest.approx(2 * verdict["reward"] - 0.25 * row["n_turns"])
        assert row["passed"] == verdict["passed"] == (verdict["reward"] == 1.0)
        assert row["scorer"] == f"{verdict['scorer']}+shaped" and verdict["run_id"] == "r"
        assert {"name": "raw", "value": verdict["reward"], "weight": 2.0} in row["reward_components"]
    assert summary.reward_mean == pytest.approx(sum(row["reward"] for row in rows) / 30)
    rescored = rescore(store, environment_scorer(OFFICE))
    assert rescored.scored == 30 and store.read("scores").num_rows == 30, "re-scoring knows these verdicts"


def test_a_component_the_verdict_lacks_fails_the_rollout_by_name(store: LanceStore) -> None:
    summary = collect_run(store, tasks=TASKS[:2], shaping={OFFICE.name: RewardShaping(components={"style": 1.0})})
    assert summary.errors == {"verifier": 2} and "no component 'style'" in str(summary.last_error)
    assert store.read("scores").num_rows == 0 and rows_of(store)[0]["scorer"] is None


def test_what_is_in_flight_and_failed_before_is_counted(store: LanceStore) -> None:
    seen: list[CollectSummary] = []
    in_flight: list[int] = []

    class Watches(Breaks):
        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            in_flight.append(seen[0].in_flight)
            return await super().respond(conversation, sampling)

    collect_run(store, Watches(30, RuntimeError("hiccup")), concurrency=5, on_plan=seen.append)
    assert max(in_flight) == 5 and seen[0].in_flight == 0 and seen[0].planned == 30
    assert collect_run(store).failed_before == seen[0].failed > 0
    assert collect_run(store, retry=failed).failed_before == 0


def test_a_writer_that_fails_ends_the_run_with_its_error(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add_many = RolloutWriter.add_many
    full: list[int] = []

    def runs_full(self: RolloutWriter, rollouts: Any) -> int:
        if len(full) == 1:
            full.append(len(rollouts))
            raise OSError(28, "No space left on device")
        full.append(len(rollouts))
        return add_many(self, rollouts)

    monkeypatch.setattr(RolloutWriter, "add_many", runs_full)
    with pytest.raises(OSError, match="No space left"):
        collect_run(store, Breaks(10_000, RuntimeError()), num_repeats=20, concurrency=8)
    kept = len(rows_of(store))
    assert 0 < kept < 600 and kept == full[0] + sum(full[2:]), (
        "the batch it refused was written when there was room again"
    )
    monkeypatch.undo()
    assert collect_run(store, num_repeats=20).collected == 600 - kept


@pytest.mark.system
def test_five_thousand_in_flight(store: LanceStore) -> None:
    class Waits(ScriptedPolicy):
        most = now = 0

        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            Waits.now += 1
            Waits.most = max(Waits.most, Waits.now)
            await asyncio.sleep(1.0 if Waits.most < 5000 else 0.01)
            Waits.now -= 1
            return await super().respond(conversation, sampling)

    summary = collect_run(store, Waits(), num_repeats=200, concurrency=5000)
    assert Waits.most == 5000 and summary.statuses == {"completed": 6000}
    assert len({row["rollout_id"] for row in store.read("rollouts", ["rollout_id"]).to_pylist()}) == 6000


def test_two_collections_at_once_share_the_writer_of_their_run(store: LanceStore) -> None:
    """As steps of an asynchronous training do: each gets its own rollouts, and when it returns they are in the store."""

    async def step(run: Any, number: int) -> tuple[CollectSummary, int]:
        done: list[str] = []
        policy = Breaks(10_000, ZeroDivisionError())
        options: dict[str, Any] = {"num_repeats": 4, "step": number, "concurrency": 20}
        summary = await collect_async(store, run, OFFICE, policy, TASKS, on_done=lambda row, _: done.append(row.rollout_id), **options)  # fmt: skip
        mine = store.read("rollouts", ["rollout_id"], f"step = {number}")["rollout_id"].to_pylist()
        assert sorted(mine) == sorted(done)
        return summary, len(mine)

    async def both(run: Any) -> list[tuple[CollectSummary, int]]:
        return list(await asyncio.gather(step(run, 1), step(run, 2), step(run, 3)))

    with start_run(store, "grpo", "r") as run, RolloutWriter(store, run):
        found = asyncio.run(both(run))
    assert [(summary.collected, n) for summary, n in found] == [(120, 120)] * 3
    assert len({row["rollout_id"] for row in rows_of(store)}) == len(rows_of(store)) == 360
    assert not check(store)


def test_it_collects_and_evaluates_under_a_running_event_loop(store: LanceStore) -> None:
    """As in a notebook. No run is left failed."""
    options = {"env": "workplace-mini", "limit": 3, "run": "notebook"}

    async def cell() -> tuple[int, int]:
        collected = run_job(store, resolve(CollectConfig, options=options)).collected
        _, summary = run_evaluation(store, resolve(EvaluationConfig, options={**options, "run": "judged"}))
        with start_run(store, "collect", "own") as run:
            return collected + collect(store, run, OFFICE, ScriptedPolicy(), TASKS[:2]).collected, summary.n

    assert asyncio.run(cell()) == (5, 3)
    assert {run["status"] for run in list_runs(store)} == {"finished"}
