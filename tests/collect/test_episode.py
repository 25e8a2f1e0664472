"""One episode becomes one row, whatever fails in it."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import EngineError
from rollhouse.collect.episode import Slot, play_episode
from rollhouse.environments.tools import ToolOutput, ToolSession
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.chat import ChatFormat, TemplateError
from rollhouse.policies.engines.base import EngineGone, EngineRefused, PromptTooLong
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.rollout import ROLLOUTS
from rollhouse.store.task import Score, Task
from rollhouse.store.validation import check_rollouts
from rollhouse.tests.episodes import run_episode


def slot(task: Task, sample: int = 0) -> Slot:
    return Slot("run", None, task, task.task_id, task.prompt_id, sample)


def play(environment: Any, policy: Any, task: Task, **options: Any) -> dict[str, Any]:
    row = asyncio.run(run_episode(environment, policy, slot(task), options.pop("sampling", Sampling()), **options))
    check_rollouts(ROLLOUTS.batch_of_rows([row]), "run")
    return row


def mini_task(calls: int) -> tuple[MiniEnvironment, Task]:
    environment = MiniEnvironment(seed=0, n_train=40)
    return environment, next(task for task in environment.tasks("train") if len(task.ground_truth) == calls)


def test_a_solved_task() -> None:
    environment, task = mini_task(2)
    row = play(environment, ScriptedPolicy(), task)
    assert (row["status"], row["stop_reason"], row["reward"], row["passed"]) == ("completed", "stop", 1.0, True)
    assert (row["n_turns"], row["n_tool_calls"], row["n_tool_errors"]) == (3, 2, 0)
    assert [message["role"] for message in row["messages"]] == ["assistant", "tool"] * 2 + ["assistant"]
    assert row.get("token_ids") is None and row.get("temperature") is None
    assert row["duration_s"] >= row["generate_s"] + row["tool_s"] + row["verify_s"] > 0


def test_a_mistake_is_a_completed_rollout_without_reward() -> None:
    environment, task = mini_task(2)
    row = play(environment, ScriptedPolicy(mistake_rate=1.0), task)
    assert (row["status"], row["reward"], row["passed"], row["n_tool_calls"]) == ("completed", 0.0, False, 1)


class Says:
    """A policy that returns the same each time, or raises it."""

    engine, policy_id = "scripted", "says"

    def __init__(self, turn: Turn | Exception) -> None:
        self.turn = turn

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        if isinstance(self.turn, Exception):
            raise self.turn
        return self.turn


class Room:
    """An environment of one tool, with configurable failures."""

    name = "room"

    def __init__(self, breaks: str = "") -> None:
        self.breaks = breaks
        self.closed = 0

    def tasks(self, split: str) -> list[Task]:
        return [Task("room", (Message("user", "go"),), ())]

    def start(self, task: Task) -> ToolSession:
        if self.breaks == "start":
            raise RuntimeError("no room")
        session = ToolSession(self._tool, self._score)
        close = session.close

        def counted() -> None:
            self.closed += 1
            close()

        session.close = counted
        return session

    def _tool(self, name: str, arguments: Any) -> ToolOutput:
        if self.breaks == "tool":
            raise RuntimeError("the tool\nbroke")
        return ToolOutput("ok", failed=name == "bad")

    def _score(self, calls: Sequence[ToolCall]) -> Score:
        if self.breaks == "verify":
            raise RuntimeError("no verdict")
        return Score(float(len(calls)), True, "room", "1", (("calls", float(len(calls)), 1.0),))


CALLS = Turn(
    Message("assistant", None, (ToolCall("call_0", "f", "{}"), ToolCall("call_1", "bad", "{"))), parse_failures=1
)


class Counts(ToolSession):
    """A session that starts, judges and closes over a connection."""

    tool_limit_s: float | None = None

    async def step(self, turn: Turn) -> Any:
        answer = await super().step(turn)
        self.tool_seconds = {"f": 0.5}
        return answer

    def verify(self) -> Any:
        return self._later(super().verify())

    def close(self) -> Any:
        return self._later(super().close())

    async def _later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value


def test_a_session_may_be_awaited_and_gets_its_tools_limit() -> None:
    room, sessions = Room(), []

    async def start(task: Task) -> Counts:
        sessions.append(Counts(lambda name, arguments: ToolOutput("ok"), room._score))
        return sessions[0]

    room.start = start  # type: ignore[method-assign]
    what = room.tasks("train")[0]
    policy: Any = Says(CALLS)
    episode = asyncio.run(play_episode(room, policy, slot(what), Sampling(), max_turns=2, tool_limit_s=7.0))
    assert (episode.rollout.reward, episode.rollout.n_tool_calls, sessions[0].tool_limit_s) == (4.0, 4, 7.0)
    assert episode.tool_seconds == {"f": 0.5} and episode.rollout.prompt_token_ids is None


def test_tokens_come_from_the_conversation_whatever_shows_them() -> None:
    class Endpoint(Says):
        """Shows tokens, no logprobs, and a history that was rewritten; sent one request twice."""

        engine, token_identity, version = "openai", ("words", None), 3

        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            conversation.prompt_ids = [1, 2]
            conversation.token_ids += [5, 6]
            conversation.loss_mask += [0, 1]
            conversation.prefix_ok = False
            conversation.gaps = ["no_logprobs"]
            return Turn(Message("assistant", "done"), [6], retries=1)

    room = Room()
    row = play(room, Endpoint(CALLS), room.tasks("train")[0])
    assert (row["token_ids"], row["loss_mask"], row["logprobs"], row["n_sampled_tokens"]) == ([5, 6], [0, 1], None, 1)
    assert (row["tokenizer_hash"], row["template_hash"], row["policy_version"]) == ("words", None, 3)
    assert (row["prefix_ok"], row["gaps"], row["n_retries"], row["n_prompt_tokens"]) == (False, ["no_logprobs"], 1, 2)


def test_a_session_that_cannot_be_closed_keeps_its_verdict_and_has_an_error_type() -> None:
    room = Room()

    def start(task: Task) -> ToolSession:
        session = Room.start(room, task)
        session.close = lambda: 1 / 0  # type: ignore[method-assign,assignment]
        return session

    room.start = start  # type: ignore[method-assign]
    row = play(room, Says(Turn(Message("assistant", "done"))), room.tasks("train")[0])
    assert (row["status"], row["reward"], row["error_type"]) == ("completed", 0.0, "close")
    assert row["error_message"] == "ZeroDivisionError: division by zero"


def test_a_tool_that_ends_the_process_is_a_row() -> None:
    room = Room()
    room._tool = lambda name, arguments: sys.exit(3)  # type: ignore[method-assign]
    row = play(room, Says(CALLS), room.tasks("train")[0])
    assert (row["status"], row["error_message"]) == ("error", "SystemExit: 3")


@pytest.mark.parametrize(
    ("breaks", "turn", "boundary", "message"),
    [
        ("start", CALLS, "environment", "RuntimeError: no room"),
        ("tool", CALLS, "environment", "RuntimeError: the tool broke"),
        ("verify", Turn(Message("assistant", "done")), "verifier", "RuntimeError: no verdict"),
        ("", EngineError("It is down.", "Start it."), "engine", "It is down."),
        ("", TemplateError("It cannot render."), "template", "It cannot render."),
        ("", EngineRefused("Not this."), "engine_refused", "Not this."),
        ("", PromptTooLong("It is too long."), "prompt_too_long", "It is too long."),
        ("", TimeoutError("no answer in 3 s"), "engine", "TimeoutError: no answer in 3 s"),
    ],
)
def test_a_failure_is_a_row_that_names_the_boundary(breaks: str, turn: Any, boundary: str, message: str) -> None:
    room = Room(breaks)
    row = play(room, Says(turn), room.tasks("train")[0])
    assert (row["status"], row["error_type"], row["error_message"]) == ("error", boundary, message)
    assert row["reward"] is None and row["passed"] is None
    assert room.closed == (breaks != "start")


def test_the_last_allowed_turn_is_executed_and_then_judged() -> None:
    room = Room()
    row = play(room, Says(CALLS), room.tasks("train")[0], max_turns=3)
    assert (row["status"], row["stop_reason"], row["n_turns"], row["n_tool_calls"]) == ("truncated", "max_turns", 3, 6)
    assert (row["n_tool_errors"], row["n_parse_failures"], row["reward"]) == (3, 3, 6.0)
    assert row["messages"][-1]["role"] == "tool" and row["reward_components"] == [
        {"name": "calls", "value": 6.0, "weight": 1.0}
    ]


@pytest.mark.parametrize(("options", "turns"), [({}, 6), ({"max_turns": 1}, 1), ({"max_turns": 9}, 9)])
def test_the_loops_limit_on_turns_is_the_only_one(options: dict[str, int], turns: int) -> None:
    environment, task = mini_task(2)
    row = play(environment, Says(CALLS), task, **options)
    assert (row["stop_reason"], row["n_turns"], row["n_tool_calls"]) == ("max_turns", turns, 2 * turns)
    assert row["messages"][-1]["role"] == "tool"


def test_a_turn_cut_by_length_ends_the_episode_unexecuted() -> None:
    room = Room()
    row = play(room, Says(Turn(CALLS.message, stop_reason="length")), room.tasks("train")[0])
    assert (row["status"], row["stop_reason"], row["n_turns"]) == ("truncated", "length", 1)
    assert [message["role"] for message in row["messages"]] == ["assistant"]


def test_a_rollout_that_takes_too_long_is_a_timeout() -> None:
    class Slow(Says):
        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            await asyncio.sleep(30)
            raise AssertionError

    room = Room()
    row = play(room, Slow(CALLS), room.tasks("train")[0], time_limit_s=0.05)
    assert (row["status"], row["error_type"], row["reward"], room.closed) == ("timeout", "timeout", None, 1)


def test_an_engine_that_is_gone_is_no_row() -> None:
    room = Room()
    with pytest.raises(EngineGone):
        play(room, Says(EngineGone("It is gone.")), room.tasks("train")[0])
    assert room.closed == 1


def test_tokens_of_a_model_land_in_the_row(random_models: tuple[Path, Path]) -> None:
    chat = ChatFormat.of(random_models[0])
    policy = TokenPolicy(TorchEngine(random_models[0], max_model_len=1500), chat, "weights")
    environment, task = mini_task(1)
    row = play(environment, policy, task, sampling=Sampling(0.7, max_tokens=20, seed=5))
    assert row["n_prompt_tokens"] == len(chat.prompt_ids(task)) and row["prefix_ok"] is True
    assert row["n_tokens"] == len(row["token_ids"]) == len(row["loss_mask"]) > 0
    assert row["n_sampled_tokens"] == sum(row["loss_mask"]) == len(row["logprobs"])
    assert row["version_spans"] == [{"start": 0, "version": 0}] and row["policy_version_last"] == 0
    assert (row["engine"], row["policy_id"], row["sampling_seed"]) == ("torch", "weights", 5)
    assert (row["tokenizer_hash"], row["template_hash"]) == (chat.tokenizer_hash, chat.template_hash)
