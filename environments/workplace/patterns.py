"""Regular expressions from a policy: matched at once when that is sure to be quick, else in a worker process with a time limit.

Python's matcher backtracks, so `(a+)+$` on forty letters runs for hours and cannot be interrupted in its process. The cost of a search has a
bound that is known beforehand: without quantified groups and back-references, a text of n characters is tried in at most n^(q+1) ways, where q
counts the quantifiers, and alternatives inside groups as well. Patterns above a budget, about one search in a thousand, are matched in a
worker process that is killed when it takes too long. Both ways use the same matcher, so they agree in every result and every error.
"""

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ...base.worker_pool import WorkerPool
from ...base.worker_process import WorkerDied, WorkerTimeout

LIMIT_S = 1.0
"""Wall-clock seconds that a doubtful pattern may take."""

# Steps of the matcher: some tenths of a second at worst, far less for an ordinary pattern.
_BUDGET = 10_000_000
_LONGEST = 1_000
_QUANTIFIER = re.compile(r"[*+?{]")
_CHOICE = re.compile(r"[*+?{(\\]")
_DOUBTFUL = re.compile(r"\)[*+?{]|\\[1-9]|\(\?(?:P=|\()")

# A search that took too long once is not tried again.
_too_slow: dict[tuple[str, int], None] = {}
_REMEMBERED = 1_000


def find_pattern(pattern: Any, texts: Sequence[str]) -> list[bool]:
    """Whether the pattern occurs in each text, case ignored; parallel to texts.

    Raises TypeError or re.error for an invalid pattern, and TimeoutError when matching took longer than LIMIT_S.
    """
    if isinstance(pattern, str) and not is_quick(pattern, texts):
        return _find_in_worker(pattern, texts)
    # Without the flag first: the error of a bad pattern must be that of the pattern as written.
    re.compile(pattern)
    search = re.compile(pattern, re.IGNORECASE).search
    return [search(text) is not None for text in texts]


def is_quick(pattern: str, texts: Sequence[str]) -> bool:
    """Whether matching is sure to stay within the budget. False for some harmless patterns, never true for a harmful one."""
    if len(pattern) > _LONGEST or _DOUBTFUL.search(pattern):
        return False
    choices = len(_QUANTIFIER.findall(pattern)) + (pattern.count("|") if "(" in pattern else 0)
    if choices == 0:
        return True
    return sum(len(text) ** (choices + 1) for text in texts) <= _BUDGET


def may_wait(arguments: Mapping[str, Any]) -> bool:
    """Whether a search with these arguments could need a worker process, and so more than microseconds."""
    return any(
        isinstance(value, str) and (len(value) > _LONGEST or _CHOICE.search(value) is not None)
        for value in arguments.values()
    )


def _find_in_worker(pattern: str, texts: Sequence[str]) -> list[bool]:
    search = pattern, hash(tuple(texts))
    try:
        if search in _too_slow:
            raise WorkerTimeout("")
        found = _matchers(LIMIT_S).call_sync("matching:match", pattern, list(texts))
    except WorkerTimeout:
        while len(_too_slow) >= _REMEMBERED:
            _too_slow.pop(next(iter(_too_slow)), None)
        _too_slow[search] = None
        raise TimeoutError(f"matching the pattern took longer than {LIMIT_S:g} s") from None
    except WorkerDied as error:
        raise RuntimeError(f"matching the pattern ended with status {error.status}") from None
    if isinstance(found, str):
        raise re.error(found)
    return found


@cache
def _matchers(limit_s: float) -> WorkerPool:
    folder = str(Path(__file__).with_name("matcher"))
    return WorkerPool(os.cpu_count() or 1, limit_s, modules=["matching"], folders=[folder], site=False)
