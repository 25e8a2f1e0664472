"""math as an environment: tasks from a file, from the hub or from the generator, and sessions of one answer."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ...base.errors import ConfigError
from ...policies.types import Turn
from ...store.messages import Message
from ...store.task import Score, Task
from ..judging import JudgeError
from ..types import Done
from .files import read_tasks
from .generator import generate_tasks
from .judge import SCORER as JUDGE
from .judge import SCORER_VERSION as JUDGE_VERSION
from .judge import AnswerJudge, same_answer
from .rows import INSTRUCTION, NAME
from .verifier import (
    LIMIT_S,
    SCORER,
    STRICT_SCORER,
    WORKERS,
    components,
    library_verdict,
    require_math_verify,
    scorer_version,
)

SPLITS = ("train", "validation", "test")


class MathEnvironment:
    """Questions with one answer. The verdict is that of math-verify or math-strict; answers that it rejects go to a judge if there is one.

    Attributes:
        judge: The model that judges answers which the rule rejects; None for no judge.
    """

    name = NAME

    def __init__(
        self,
        tasks: str | Path | None = None,
        seed: int = 0,
        tasks_split: str = "train",
        judge: AnswerJudge | Mapping[str, Any] | str | None = None,
        *,
        rule: Literal["library", "strict"] = "library",
        system_prompt: str | None = INSTRUCTION,
        limit_s: float = LIMIT_S,
        workers: int = WORKERS,
        n_train: int = 1000,
        n_validation: int = 200,
        n_test: int = 200,
    ) -> None:
        """
        Args:
            tasks: A JSONL or Parquet file, or `hf:OWNER/NAME[@REVISION][:SPLIT]`; None generates tasks.
            seed: Seed of the generator.
            tasks_split: Split of rows without one.
            judge: Settings of an AnswerJudge, or the URL of its endpoint.
            rule: `library`: math-verify; `strict`: math-strict, the last box alone, compared exactly.
            system_prompt: Put before each question of rows without messages; None or "" for none.
            limit_s: Seconds the library may take over one answer.
            workers: Answers judged at once by the library.
            n_train, n_validation, n_test: How many tasks are generated.

        Raises MissingExtra when math-verify is not installed, ConfigError for a wrong setting.
        """
        require_math_verify()
        if limit_s <= 0 or workers < 1:
            raise ConfigError("limit_s and workers of the math environment are positive.", "Leave them out for their defaults.")  # fmt: skip
        self.judge = AnswerJudge.of(judge)
        self._tasks = tasks
        self._seed = seed
        self._tasks_split = tasks_split
        self._system_prompt = system_prompt or None
        self._sizes = dict(zip(SPLITS, (n_train, n_validation, n_test), strict=True))
        self._limits = (limit_s, workers)
        self._strict = rule == "strict"

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of a split: those of the file in its order, or generated ones. Raises ConfigError for another split, FormatError for a bad row."""
        if split not in SPLITS:
            raise ConfigError(f"{NAME} has no split {split!r}.", "Use train, validation or test.")
        if self._tasks is None:
            return generate_tasks(self._seed, split, self._sizes[split], self._system_prompt)
        found = read_tasks(self._tasks, self._tasks_split, self._system_prompt)
        return (task for task in found if task.split == split)

    def start(self, task: Task) -> "MathSession":
        """A fresh session, which holds the policy's messages."""
        return MathSession(self, task)

    async def score(self, task: Task, text: str) -> tuple[Score, str | None]:
        """The verdict on the policy's text, and the answer extracted from it. When the judge fails, the rule's verdict stands, with the part `judge_failed`."""
        expected = str(task.ground_truth)
        found = await library_verdict(text, expected, *self._limits, strict=self._strict)
        scorer = STRICT_SCORER if self._strict else SCORER
        ruled = Score(found.reward, found.reward > 0.5, scorer, scorer_version(), components(found))
        if self.judge is None or (ruled.passed and not await self._is_doubtful(self.judge, text, expected)):
            return ruled, found.extracted
        try:
            same, words = await same_answer(self.judge, question(task), expected, found.extracted, text)
        except JudgeError:
            return replace(ruled, components=(*ruled.components, ("judge_failed", 1.0, 0.0))), found.extracted
        parts = tuple((name, value, 0.0) for name, value, _ in ruled.components)
        parts = (*parts, ("judge", float(same), 1.0))
        return Score(float(same), same, JUDGE, JUDGE_VERSION, parts, rationale=words or None), found.extracted

    async def _is_doubtful(self, judge: AnswerJudge, text: str, expected: str) -> bool:
        """Whether the judge confirms accepted answers, and this one is not accepted by the strict rule."""
        if not judge.confirm or self._strict:
            return False
        strict = await library_verdict(text, expected, *self._limits, strict=True)
        return strict.reward < 0.5


class MathSession:
    """One question and its answer: the first turn with text, or cut by the token limit, ends it.

    Attributes:
        n_tool_errors: Calls the policy made, of which none has a tool.
        extracted_answer: What `verify` took for the answer; None before it, and when it found none.
    """

    def __init__(self, environment: MathEnvironment, task: Task) -> None:
        self.n_tool_errors = 0
        self.extracted_answer: str | None = None
        self._environment = environment
        self._task = task
        self._said: list[str] = []

    async def step(self, turn: Turn) -> list[Message] | Done:
        """Done, unless the turn calls tools (which are refused) or holds reasoning only."""
        message = turn.message
        self._said.append(text_of(message))
        if turn.stop_reason == "length":
            return Done("length")
        self.n_tool_errors += len(message.tool_calls)
        if message.tool_calls:
            return [Message("tool", f"Error: there is no tool {call.name}.", tool_call_id=call.id) for call in message.tool_calls]  # fmt: skip
        return [] if message.reasoning is not None and not self._said[-1] else Done("stop")

    async def verify(self) -> Score:
        """The verdict on the texts of all turns, joined; reasoning that is kept apart does not count."""
        score, self.extracted_answer = await self._environment.score(self._task, "".join(self._said))
        return score

    def close(self) -> None:
        """Frees the messages."""
        self._said.clear()


def text_of(message: Message) -> str:
    """The text of a message, those of its parts joined."""
    if message.parts is None:
        return message.text or ""
    parts = json.loads(message.parts)
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def question(task: Task) -> str:
    """The question: the user's last message."""
    return next((text_of(message) for message in reversed(task.messages) if message.role == "user"), "")
