"""The rule of a math verdict: what `math-verify` makes of an answer's text, in a process that may be killed."""

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from ...base.errors import MissingExtra
from ...base.guard import GuardCrash, GuardedPool, GuardError, GuardTimeout, GuardUnavailable

SCORER = "math-verify"
# The end of a text that is judged: a final answer stands there, and what a text of megabytes costs is bounded.
TEXT_CHARACTERS = 50_000
LIMIT_S = 10.0
MEMORY_MB = 1024
WORKERS = max(4, min(32, os.cpu_count() or 1))
_RULE = "rollhouse.environments.math.rule"


@dataclass(frozen=True)
class LibraryVerdict:
    """What the library says of one text.

    Attributes:
        reward: 1.0 or 0.0.
        extracted: The first answer found in the text that matches, else the first found; None when none was.
        failure: `timeout`, `crash` or `exception` when it came to no verdict, which is a reward of 0.0; else None.
    """

    reward: float
    extracted: str | None
    failure: str | None = None


async def library_verdict(text: str, expected: str, limit_s: float = LIMIT_S, workers: int = WORKERS) -> LibraryVerdict:
    """Whether the text's answer equals the expected one. Anything that goes wrong while finding out is a 0.0.

    Args:
        text: All that the policy said; only its last TEXT_CHARACTERS are looked at.
        expected: LaTeX or a plain expression, with or without one pair of delimiters around it.
        limit_s: Seconds, from when a worker is free.
        workers: Texts judged at once; those beyond wait. See GuardedPool.

    Raises MissingExtra, and GuardUnavailable when no process can be started.
    """
    try:
        found = await guarded(workers, limit_s).call(f"{_RULE}:judge", text[-TEXT_CHARACTERS:], expected)
        return LibraryVerdict(*found)
    except GuardUnavailable:
        raise  # nothing was judged, which is no verdict on the answer
    except GuardTimeout:
        return LibraryVerdict(0.0, None, "timeout")
    except GuardCrash:
        return LibraryVerdict(0.0, None, "crash")
    except GuardError:
        return LibraryVerdict(0.0, None, "exception")


@cache
def guarded(workers: int, limit_s: float) -> GuardedPool:
    """The processes that judge, shared by all environments of this process."""
    require_math_verify()
    return GuardedPool(workers, limit_s, memory_mb=MEMORY_MB, modules=[_RULE])


def require_math_verify() -> None:
    """Raises MissingExtra when the library is not installed."""
    if find_spec("math_verify") is None:
        raise MissingExtra("The package math-verify is not installed.", "Run `make setup` in a checkout, or `pip install 'rollhouse[math]'`.")  # fmt: skip


@cache
def scorer_version() -> str:
    """Our rule's version, then the library's: other code may give other verdicts."""
    require_math_verify()
    return f"1-{version('math-verify')}"


def components(verdict: LibraryVerdict) -> tuple[tuple[str, float, float], ...]:
    """The verdict as parts of a score; a failure is a part without weight, so that it can be told from a wrong answer."""
    parts: list[Any] = [("library_reward", verdict.reward, 1.0)]
    if verdict.failure:
        parts.append((f"library_{verdict.failure}", 1.0, 0.0))
    return tuple(parts)
