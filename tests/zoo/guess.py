"""An environment for random models: half of all answers are right."""

from collections.abc import Iterator

from rollhouse.environments.tools import ToolSession, tool_session
from rollhouse.store.messages import Message
from rollhouse.store.task import Score, Task


class EvenLength:
    """Solved by an answer with an even number of characters."""

    name = "even-length"

    def tasks(self, split: str) -> Iterator[Task]:
        for number in range(8):
            yield Task(self.name, (Message("user", f"{split} {number}"),), (), ground_truth=number, split=split)

    def start(self, task: Task) -> ToolSession:
        def verify(session: ToolSession) -> Score:
            solved = len(session.answer) % 2 == 0
            return Score(float(solved), solved, "even-length", "1", ())

        return tool_session([], verify, inline=True)
