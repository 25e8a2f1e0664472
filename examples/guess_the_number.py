"""An environment with a user: the policy guesses a hidden number, the user answers higher or lower, without tools.

rollhouse collect --env examples/guess_the_number.py --engine openai:http://127.0.0.1:8000/v1 --max-turns 8
"""

import random
import re
from collections.abc import Iterator

from rollhouse.environments.tools import ToolSession, tool_session
from rollhouse.store.messages import Message
from rollhouse.store.task import Score, Task

REQUEST = "I think of a number from 1 to 32. Guess it: one number a turn. I answer higher, lower or right."


class GuessTheNumber:
    """The user's answers come from `user`; None ends the episode."""

    name = "guess-the-number"

    def tasks(self, split: str) -> Iterator[Task]:
        """One task per number; the prompt is the same, the hidden number is the ground truth."""
        numbers = random.Random(0).sample(range(1, 33), 32)
        for number in {"train": numbers[:20], "validation": numbers[20:26], "test": numbers[26:]}[split]:
            yield Task(self.name, (Message("user", REQUEST),), (), ground_truth=number, split=split)

    def start(self, task: Task) -> ToolSession:
        """Solved when the last guess is right; fewer guesses are a component of the verdict."""

        def user(session: ToolSession) -> str | None:
            guess = _guess(session)
            if guess is None:
                return "Say a number, please."
            return None if guess == task.ground_truth else "higher" if guess < task.ground_truth else "lower"

        def verify(session: ToolSession) -> Score:
            solved = _guess(session) == task.ground_truth
            guesses = float(sum(message.role == "assistant" for message in session.messages))
            return Score(float(solved), solved, "guess-the-number", "1", (("guesses", guesses, 0.0),))

        return tool_session([], verify, user=user, inline=True)


def _guess(session: ToolSession) -> int | None:
    numbers = re.findall(r"\d+", session.answer)
    return int(numbers[-1]) if numbers else None
