"""Environments of the real verifiers package: single turn, tools, and many turns, played by our policies."""

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.cli.main import app
from rollhouse.collect.episode import Slot
from rollhouse.environments.registry import load_environment, tasks_of
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task
from rollhouse.tests.episodes import run_episode
from typer.testing import CliRunner

pytestmark = pytest.mark.system  # importing the package takes five seconds

MODULE = '''
import verifiers as vf
from datasets import Dataset

ROWS = [{"question": f"What is {n} + 1?", "answer": str(n + 1), "info": {"n": n}} for n in range(4)]


def exact(completion, answer):
    return float(completion[-1].content == answer)


def short(completion):
    return 1.0 / len(completion[-1].content or "?")


def crash(completion):
    raise ZeroDivisionError("no verdict")


def add_one(number: int) -> int:
    """Adds one.

    Args:
        number: To what.
    """
    return number + 1


class Patient(vf.MultiTurnEnv):
    """Asks again until the answer is right, then thanks."""

    async def env_response(self, messages, state, **kwargs):
        if messages[-1].content == state["answer"]:
            state["final_env_response"] = [vf.UserMessage(content="Thank you.")]
            return []
        if messages[-1].content == "break":
            raise vf.Error("broken inside")
        return [vf.UserMessage(content="Again?")]


def load_environment(kind="single", rubric="exact", held_out=False):
    functions = {"exact": [exact, short], "crash": [crash], "group": [lambda completions: [0.0]]}[rubric]
    given = {
        "dataset": Dataset.from_list(ROWS),
        "eval_dataset": Dataset.from_list(ROWS[:2]) if held_out else None,
        "system_prompt": "Answer with the number.",
        "rubric": vf.Rubric(funcs=functions, weights=[1.0, 0.0][: len(functions)]),
    }
    if kind == "tools":
        return vf.ToolEnv(tools=[add_one], max_turns=3, **given)
    return {"single": vf.SingleTurnEnv, "patient": Patient}[kind](**given)
'''


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "adding_up.py").write_text(MODULE)
    sys.path.append(str(folder))
    yield
    sys.path.remove(str(folder))


class Says:
    """These texts or calls in turn, the last one again and again."""

    engine, policy_id, token_identity, version = "scripted", "says", None, 0

    def __init__(self, *turns: str | tuple[str, str]) -> None:
        self.turns = turns

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        number = len([message for message in conversation.messages if message.role == "assistant"])
        output = self.turns[min(number, len(self.turns) - 1)]
        if isinstance(output, str):
            return Turn(Message("assistant", output))
        return Turn(Message("assistant", None, (ToolCall(f"call_{number}", *output),)))


def play(environment: Any, policy: Any, task: Task, **limits: Any) -> dict[str, Any]:
    slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
    return asyncio.run(run_episode(environment, policy, slot, Sampling(), **limits))


def opened(**options: Any) -> tuple[Any, list[Task]]:
    environment = load_environment("verifiers:adding-up", **options)
    return environment, tasks_of(environment, "train")


def test_a_single_turn_with_a_rubric() -> None:
    before = signal.getsignal(signal.SIGINT)
    environment, tasks = opened()
    assert signal.getsignal(signal.SIGINT) is before
    assert [message.role for message in tasks[0].messages] == ["system", "user"] and len(tasks) == 4
    right, wrong = play(environment, Says("3"), tasks[2]), play(environment, Says("30"), tasks[2])
    assert (right["status"], right["reward"], right["passed"], right["n_turns"]) == ("completed", 1.0, True, 1)
    assert (wrong["reward"], wrong["passed"], wrong["environment"]) == (0.0, False, "adding-up")
    parts = {part["name"]: (part["value"], part["weight"]) for part in wrong["reward_components"]}
    assert parts["exact"] == (0.0, 1.0) and parts["short"] == (0.5, 0.0)


def test_tools_are_called_and_counted() -> None:
    environment, tasks = opened(kind="tools")
    assert tasks[0].tools[0]["function"]["name"] == "add_one"
    row = play(environment, Says(("add_one", '{"number": 1}'), "2"), tasks[1])
    assert [message["text"] for message in row["messages"]] == [None, "2", "2"]
    assert (row["status"], row["reward"], row["n_turns"], row["n_tool_calls"]) == ("completed", 1.0, 2, 1)
    assert {"name": "add_one_calls", "value": 1.0, "weight": 0.0} in row["reward_components"]
    broken = play(environment, Says(("add_one", "{"), ("nothing", "{}"), "2"), tasks[1])
    assert [message["role"] for message in broken["messages"]] == ["assistant", "tool"] * 2 + ["assistant"]
    assert broken["reward"] == 1.0
    endless = play(environment, Says(("add_one", '{"number": 1}')), tasks[1])
    assert (endless["status"], endless["stop_reason"], endless["n_turns"]) == ("truncated", "max_turns", 3)


def test_many_turns_end_as_the_environment_says_or_at_our_limit() -> None:
    environment, tasks = opened(kind="patient")
    row = play(environment, Says("7", "1"), tasks[0])
    assert [message["text"] for message in row["messages"]] == ["7", "Again?", "1", "Thank you."]
    assert row["status"] == "completed"
    cut = play(environment, Says("7"), tasks[0], max_turns=2)
    assert (cut["status"], cut["stop_reason"], cut["n_turns"]) == ("truncated", "max_turns", 2)
    assert cut["reward"] == 0.0


def test_what_fails_inside_is_an_error_row() -> None:
    environment, tasks = opened(kind="patient")
    row = play(environment, Says("break"), tasks[0])
    assert (row["status"], row["error_type"], row["reward"]) == ("error", "environment", None)
    assert "broken inside" in row["error_message"]
    environment, tasks = opened(rubric="crash")
    row = play(environment, Says("1"), tasks[0])
    assert (row["status"], row["error_type"], row["reward"]) == ("error", "verifier", None)
    assert "crash: ZeroDivisionError: no verdict" in row["error_message"]


def test_splits_and_what_cannot_be_loaded() -> None:
    environment, _ = opened(held_out=True)
    assert len(tasks_of(environment, "validation")) == 2
    with pytest.raises(ConfigError, match="no task in split 'validation'"):
        tasks_of(opened()[0], "validation")
    with pytest.raises(ConfigError, match="cannot load 'not-there'"):
        load_environment("verifiers:not-there")
    with pytest.raises(ConfigError, match="scores one rollout at a time"):
        opened(rubric="group")


def test_many_at_once_and_from_the_command_line(tmp_path: Path) -> None:
    environment, tasks = opened()

    async def all_at_once() -> list[float]:
        slots = [Slot("run", None, task, task.task_id, task.prompt_id, i) for i in range(25) for task in tasks]
        rows = await asyncio.gather(*(run_episode(environment, Says("1"), slot, Sampling()) for slot in slots))
        return [row["reward"] for row in rows]

    assert sum(asyncio.run(all_at_once())) == 25
    words = ["collect", "--env", "verifiers:adding-up", "--store", str(tmp_path / "store"), "--format", "json"]
    done = CliRunner().invoke(app, words)  # the scripted policy has no calls to play here
    assert done.exit_code == 1 and "needs a ground truth" in json.dumps(done.stderr)
