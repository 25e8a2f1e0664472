"""The example of several turns: each answer has its reward, and a solved task has all of them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from rollhouse.collect.episode import Slot, play_episode
from rollhouse.environments.registry import load_environment
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.messages import Message, VersionSpan

FILE = Path(__file__).resolve().parents[2] / "examples" / "running_sums.py"


class Says:
    """A policy of given answers; after them its context is full."""

    engine = policy_id = "says"
    token_identity = None
    version = 0

    def __init__(self, *answers: str) -> None:
        self.answers = answers

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        number = sum(message.role == "assistant" for message in conversation.messages)
        if number == len(self.answers):
            return Turn(Message("assistant", ""), [], [], (VersionSpan(0, 0),), "length")
        return Turn(Message("assistant", self.answers[number]))


def play(answers: Any) -> dict[str, Any]:
    environment = load_environment(str(FILE))
    task = next(iter(environment.tasks("train")))
    given = answers(task.ground_truth)
    slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
    return asyncio.run(play_episode(environment, Says(*given), slot, Sampling())).rollout.to_row()


@pytest.mark.parametrize(
    ("answers", "reward", "by_turn"),
    [
        (lambda t: (f"It is {t[0] + t[1]}.", str(sum(t))), 1.0, [0.5, 0.5]),
        (lambda t: ("100", str(sum(t))), 0.5, [0.0, 0.5]),
        (lambda t: ("no idea", "9" * 12), 0.0, [0.0, 0.0]),
        (lambda t: (str(t[0] + t[1]),), 0.5, [0.5, 0.0]),
    ],
    ids=["right", "second right", "wrong", "context full"],
)
def test_each_answer_has_its_reward(answers, reward, by_turn) -> None:
    row = play(answers)
    assert row["status"] in ("completed", "truncated"), row["error_message"]
    assert (row["reward"], row["passed"], row["turn_rewards"]) == (reward, reward == 1, by_turn)


def test_tasks_of_the_splits_are_different() -> None:
    environment = load_environment(str(FILE))
    terms = [tuple(task.ground_truth) for split in ("train", "validation", "test") for task in environment.tasks(split)]
    assert len(set(terms)) == len(terms) == 160
