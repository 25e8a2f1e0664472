"""Tasks from a seed: eleven kinds of problems at five levels, with exact answers, the same on every machine."""

import hashlib
from collections.abc import Callable, Iterator

from ...base.errors import ConfigError
from ...store.messages import Message
from ...store.task import Task
from .calculation import arithmetic, divisors, fractions, linear_equation, modular, sequence, system
from .draw import MathDraw, Problem, latex
from .rows import INSTRUCTION, NAME
from .stories import counting, geometry, percent, word_problem

KINDS: dict[str, Callable[[MathDraw, int], Problem]] = {
    "arithmetic": arithmetic,
    "fractions": fractions,
    "linear_equation": linear_equation,
    "system": system,
    "modular": modular,
    "divisors": divisors,
    "sequence": sequence,
    "percent": percent,
    "word_problem": word_problem,
    "geometry": geometry,
    "counting": counting,
}
LEVELS = 5
# Of ten problems, one is for validation, one for test.
_SPLIT_OF = ("validation", "test", *["train"] * 8)
_DRAWS = 400


def generate_tasks(seed: int, split: str, count: int, system_prompt: str | None = INSTRUCTION) -> Iterator[Task]:
    """So many different tasks of a split, kinds in turn and levels in turn; a longer list starts with the shorter one.

    A problem's own numbers decide its split, so splits have no problem in common, not even in other words or from other seeds. The level, 1 to 5,
    is the task's difficulty, the kind its category, the exact answer in LaTeX its ground truth.

    Raises ConfigError when there are fewer different problems.
    """
    draw = MathDraw(int.from_bytes(hashlib.sha256(f"math {seed} {split}".encode()).digest()[:8], "big"))
    seen: set[bytes] = set()
    names = list(KINDS)
    index = made = 0
    empty: set[tuple[str, int]] = set()
    while made < count:
        kind, level = names[index % len(names)], 1 + index // len(names) % LEVELS
        index += 1
        if (kind, level) in empty:
            continue
        problem = _new_problem(draw, kind, level, split, seen)
        if problem is None:
            # A few kinds have few problems at a level; the others go on without them.
            empty.add((kind, level))
            if len(empty) == len(names) * LEVELS:
                raise ConfigError(f"The math generator has only {made} different tasks for {split}.", f"Request fewer than {count}.")  # fmt: skip
            continue
        yield _task(draw.one(problem.wordings), problem, kind, level, f"{seed}-{split}-{made}", split, system_prompt)
        made += 1


def split_of(kind: str, key: tuple) -> str:
    """The split of a problem, by its numbers."""
    return _SPLIT_OF[_digest(kind, key)[0] % len(_SPLIT_OF)]


def _new_problem(draw: MathDraw, kind: str, level: int, split: str, seen: set[bytes]) -> Problem | None:
    """A problem of the split that was not seen; None when many draws give none."""
    for _ in range(_DRAWS):
        problem = KINDS[kind](draw, level)
        digest = _digest(kind, problem.key)
        if split_of(kind, problem.key) == split and digest not in seen:
            seen.add(digest)
            return problem
    return None


def _digest(kind: str, key: tuple) -> bytes:
    return hashlib.sha256(f"{kind} {key}".encode()).digest()[8:24]


def _task(text: str, problem: Problem, kind: str, level: int, key: str, split: str, system_prompt: str | None) -> Task:
    system = [Message("system", system_prompt)] if system_prompt else []
    answer = latex(problem.answer)
    return Task(
        environment=NAME,
        messages=(*system, Message("user", text)),
        tools=(),
        ground_truth=answer,
        split=split,
        category=kind,
        difficulty=float(level),
        source_key=key,
        # As NeMo Gym's math rows name them, for files that are written of these tasks.
        extra={"question": text, "expected_answer": answer},
    )
