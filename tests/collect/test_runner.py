"""The runner: exactly the planned rollouts, whatever happens on the way."""

import asyncio
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rollhouse.collect.chat import ChatFormat
from rollhouse.collect.engines.base import EngineGone
from rollhouse.collect.engines.torch_engine import TorchEngine
from rollhouse.collect.environments.workplace_mini import MiniEnvironment
from rollhouse.collect.policies import ScriptedPolicy, TokenPolicy
from rollhouse.collect.runner import CollectSummary, collect, collect_async, failed, refuse_other_config
from rollhouse.collect.types import Conversation, Sampling, Task, Turn
from rollhouse.store.errors import ConfigError
from rollhouse.store.house import House
from rollhouse.store.maintenance import check
from rollhouse.store.messages import Message
from rollhouse.store.runs import get_run, start_run

OFFICE = MiniEnvironment(seed=0, n_train=30)
TASKS = list(OFFICE.tasks("train"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House.create(tmp_path / "house")


def rows_of(house: House, run: str = "r") -> list[dict[str, Any]]:
    return house.read("rollouts", filter=f"run_id = '{run}'").to_pylist()


def collect_run(
    house: House, policy: Any = None, tasks: list[Task] = TASKS, run: str = "r", **options: Any
) -> CollectSummary:
    with start_run(house, "collect", run) as opened:
        return collect(house, opened, OFFICE, policy or ScriptedPolicy(), tasks, **options)


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


def test_every_planned_rollout_is_collected_once_with_what_it_refers_to(house: House) -> None:
    summary = collect_run(house, ScriptedPolicy(0.4), num_repeats=3, concurrency=7)
    rows = rows_of(house)
    assert len(rows) == len({row["rollout_id"] for row in rows}) == summary.collected == summary.planned == 90
    assert Counter(row["group_id"] for row in rows).most_common()[-1][1] == 3
    assert {(row["task_id"], row["sample_index"]) for row in rows} == {
        (task.task_id, i) for task in TASKS for i in range(3)
    }
    assert 0 < summary.passed < 90 and summary.reward_mean == summary.passed / 90
    tasks = {row["task_id"]: row for row in house.read("tasks").to_pylist()}
    prompts = {row["prompt_id"]: row for row in house.read("prompts").to_pylist()}
    for task in TASKS:
        kept = tasks[task.task_id]
        assert json.loads(kept["ground_truth"]) == task.ground_truth and json.loads(kept["state"]) == task.state
        prompt = prompts[kept["prompt_id"]]
        assert [Message.from_row(message) for message in prompt["messages"]] == list(task.messages)
        assert json.loads(prompt["tools"]) == list(task.tools)
    again = collect_run(house, ScriptedPolicy(0.4), num_repeats=3)
    assert (again.collected, again.skipped, len(rows_of(house))) == (0, 90, 90)


def test_a_run_that_lost_its_engine_goes_on_where_it_stopped(house: House) -> None:
    with pytest.raises(EngineGone):
        collect_run(house, Breaks(40, EngineGone("It is gone.")), num_repeats=2, concurrency=4)
    first = {row["rollout_id"] for row in rows_of(house)}
    assert 0 < len(first) < 60 and get_run(house, "r")["status"] == "failed"
    summary = collect_run(house, num_repeats=2)
    assert (summary.skipped, summary.collected) == (len(first), 60 - len(first))
    rows = rows_of(house)
    assert len(rows) == len({row["rollout_id"] for row in rows}) == 60 and {row["status"] for row in rows} == {
        "completed"
    }


def test_failures_are_rows_and_can_be_tried_again(house: House) -> None:
    summary = collect_run(house, Breaks(30, RuntimeError("hiccup")), concurrency=3)
    assert summary.statuses["error"] == summary.errors["engine"] > 0 and summary.collected == 30
    assert summary.last_error == "RuntimeError: hiccup"
    assert collect_run(house).collected == 0, "a failed rollout is not collected again by itself"
    again = collect_run(house, retry=failed)
    assert again.collected == summary.statuses["error"] and again.statuses["completed"] == again.collected
    retried = [row for row in rows_of(house) if row["attempt"] == 1]
    assert len(retried) == again.collected
    lost = {row["slot_id"] for row in rows_of(house) if row["status"] == "error"}
    assert {row["slot_id"] for row in retried} == lost


def test_cancelling_keeps_what_was_collected(house: House) -> None:
    async def cancelled() -> None:
        with start_run(house, "collect", "r") as run:
            work = collect_async(
                house, run, OFFICE, Breaks(50, asyncio.CancelledError()), TASKS, num_repeats=2, concurrency=4
            )
            await work

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert 0 < len(rows_of(house)) < 60 and get_run(house, "r")["status"] == "aborted"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollhouse-writer")]


def test_what_no_table_can_hold_is_a_row_that_says_so(house: House) -> None:
    class Odd(ScriptedPolicy):
        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            return Turn(Message("assistant", "half a pair \ud800"))

    summary = collect_run(house, Odd(), TASKS[:2])
    assert summary.errors == {"store": 2}
    row = rows_of(house)[0]
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
def test_a_task_no_table_can_hold_is_a_row_that_says_so_and_the_run_goes_on(house: House, odd: Task) -> None:
    summary = collect_run(house, tasks=[odd, *TASKS[1:4]], num_repeats=2)
    assert summary.errors == {"store": 2} and summary.statuses == {"error": 2, "completed": 6}
    row = next(row for row in rows_of(house) if row["status"] == "error")
    assert (row["task_id"], row["prompt_id"], row["messages"]) == (None, None, None)
    assert "surrogates not allowed" in row["error_message"] and check(house) == []
    again = collect_run(house, tasks=[odd, *TASKS[1:4]], num_repeats=2)
    assert (again.collected, again.skipped) == (0, 8)


def test_prompt_tokens_come_with_the_first_rollout_that_has_them(
    house: House, random_models: tuple[Path, Path]
) -> None:
    class FirstFails(TokenPolicy):
        failures = 1

        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("hiccup")
            return await super().respond(conversation, sampling)

    policy = FirstFails(TorchEngine(random_models[0], 1500), ChatFormat.of(random_models[0]), "weights")
    summary = collect_run(house, policy, TASKS[:1], num_repeats=2, sampling=Sampling(max_tokens=4), concurrency=1)
    assert summary.statuses["error"] == 1
    tokens = house.read("prompt_tokens").to_pylist()
    assert [row["token_ids"] for row in tokens] == [policy.chat.prompt_ids(TASKS[0])]


def test_steps_are_slots_of_their_own(house: House) -> None:
    with start_run(house, "grpo", "r") as run:
        for step in (1, 2, 2):
            collect(house, run, OFFICE, ScriptedPolicy(), TASKS[:4], num_repeats=2, step=step)
    assert Counter(row["step"] for row in rows_of(house)) == {1: 8, 2: 8}


def test_equal_tasks_fill_one_slot(house: House) -> None:
    assert collect_run(house, tasks=[*TASKS[:3], TASKS[0]]).planned == 3


def test_each_rollout_has_its_own_seed_and_the_same_one_next_time(
    house: House, random_models: tuple[Path, Path]
) -> None:
    engine = TorchEngine(random_models[0], max_model_len=1500)
    policy = TokenPolicy(engine, ChatFormat.of(random_models[0]), "weights")
    for run in ("r", "s"):
        collect_run(house, policy, TASKS[:2], run, num_repeats=2, sampling=Sampling(max_tokens=5, seed=3), max_turns=2)
    first, second = ({row["sampling_seed"] for row in rows_of(house, run)} for run in ("r", "s"))
    assert first == second and len(first) == 4
    tokens = house.read("prompt_tokens").to_pylist()
    assert {row["prompt_id"]: row["token_ids"] for row in tokens} == {
        task.prompt_id: policy.chat.prompt_ids(task) for task in TASKS[:2]
    }


def test_progress_is_told_of_every_rollout(house: House) -> None:
    seen: list[tuple[str, int]] = []
    collect_run(house, on_done=lambda row, so_far: seen.append((row["rollout_id"], so_far.collected)))
    assert [count for _, count in seen] == list(range(1, 31)) and len({one for one, _ in seen}) == 30


def test_another_configuration_is_refused_by_name(house: House) -> None:
    config = {"temperature": 1.0, "limit": None}
    refuse_other_config(house, "r", config)
    with start_run(house, "collect", "r", config):
        pass
    refuse_other_config(house, "r", dict(config))
    with pytest.raises(ConfigError, match=r"temperature was 1\.0 and is now 0\.5"):
        refuse_other_config(house, "r", {**config, "temperature": 0.5})
    with pytest.raises(ConfigError, match="at least one rollout"):
        collect_run(house, run="s", num_repeats=0)
