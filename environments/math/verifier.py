"""The verdict of `math-verify` on an answer's text, in a killable worker process."""

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from ...base.errors import MissingExtra
from ...base.packages import install_command
from ...base.worker_pool import WorkerPool
from ...base.worker_process import WorkerDied, WorkerError, WorkerTimeout, WorkerUnavailable

SCORER, STRICT_SCORER = "math-verify", "math-strict"
# Only the end of a text is judged: the final answer is there, and the cost of a long text is bounded.
TEXT_CHARACTERS = 50_000
LIMIT_S = 5.0
MEMORY_MB = 1024
WORKERS = max(4, min(32, os.cpu_count() or 1))
_RULE = "rollhouse.environments.math.rule"


@dataclass(frozen=True)
class LibraryVerdict:
    """The library's verdict on one text.

    Attributes:
        reward: 1.0 or 0.0.
        extracted: The first answer found in the text that matches, else the first found; None when none was.
        failure: `timeout`, `crash` or `exception` when it reached no verdict (the reward is then 0.0); else None.
    """

    reward: float
    extracted: str | None
    failure: str | None = None


async def library_verdict(
    text: str, expected: str, limit_s: float = LIMIT_S, workers: int = WORKERS, *, strict: bool = False
) -> LibraryVerdict:
    """Whether the text's answer equals the expected one. A call that fails or times out is a 0.0.

    Args:
        text: The policy's text; only its last TEXT_CHARACTERS are judged.
        expected: LaTeX or a plain expression, with or without one pair of delimiters around it.
        limit_s: Seconds, from when a worker is free.
        workers: Texts judged at once; those beyond wait. See WorkerPool.
        strict: The verdict of math-strict: the last box alone, compared exactly.

    Raises MissingExtra, and WorkerUnavailable when no process can be started.
    """
    try:
        rule = "judge_strictly" if strict else "judge"
        found = await verifiers(workers, limit_s).call(f"{_RULE}:{rule}", text[-TEXT_CHARACTERS:], expected)
        return LibraryVerdict(*found)
    except WorkerUnavailable:
        raise  # nothing was judged
    except WorkerTimeout:
        return LibraryVerdict(0.0, None, "timeout")
    except WorkerDied:
        return LibraryVerdict(0.0, None, "crash")
    except WorkerError:
        return LibraryVerdict(0.0, None, "exception")


@cache
def verifiers(workers: int, limit_s: float) -> WorkerPool:
    """The worker processes, shared by all environments of this process."""
    require_math_verify()
    return WorkerPool(workers, limit_s, memory_mb=MEMORY_MB, modules=[_RULE])


def require_math_verify() -> None:
    """Raises MissingExtra when the library is not installed."""
    if find_spec("math_verify") is None:
        raise MissingExtra("The package math-verify is not installed.", f"Run `make setup` in a checkout, or `{install_command('math')}`.")  # fmt: skip


@cache
def scorer_version() -> str:
    """Version of our rule, then of the library."""
    require_math_verify()
    return f"2-{version('math-verify')}"


def components(verdict: LibraryVerdict) -> tuple[tuple[str, float, float], ...]:
    """The verdict as parts of a score; a failure is a part without weight, which sets it apart from a wrong answer."""
    parts: list[Any] = [("library_reward", verdict.reward, 1.0)]
    if verdict.failure:
        parts.append((f"library_{verdict.failure}", 1.0, 0.0))
    return tuple(parts)
