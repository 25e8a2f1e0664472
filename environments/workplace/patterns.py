"""Regular expressions from a policy: matched at once where that is sure to be quick, in a process with a time limit where it may not be.

Python's matcher backtracks, so `(a+)+$` on forty letters runs for hours, and nothing stops it from within. What a search can cost is known
beforehand: without quantified groups and back-references a text of n characters is tried in at most n^(q+1) ways, where q counts the
quantifiers, and alternatives inside groups as well. Patterns above a budget, about one search in a thousand, are matched by a
process that is killed when it takes too long. Both paths are the same matcher, so they agree in every answer and every error.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIMIT_S = 1.0
"""Wall-clock seconds that a doubtful pattern may take, the start of its process included."""

# Steps of the matcher: some tenths of a second at worst, and far less for any pattern that was meant.
_BUDGET = 10_000_000
_LONGEST = 1_000
_QUANTIFIER = re.compile(r"[*+?{]")
_CHOICE = re.compile(r"[*+?{(\\]")
_DOUBTFUL = re.compile(r"\)[*+?{]|\\[1-9]|\(\?(?:P=|\()")

# As many processes at once as there are cores; and a question that took too long once is not asked again.
_places = threading.BoundedSemaphore(os.cpu_count() or 1)
_too_slow: dict[tuple[str, int], None] = {}
_REMEMBERED = 1_000


def find_pattern(pattern: Any, texts: Sequence[str]) -> list[bool]:
    """Whether the pattern occurs in each text, case ignored; parallel to texts.

    Raises TypeError or re.error when it is no pattern, and TimeoutError when matching took longer than LIMIT_S.
    """
    if isinstance(pattern, str) and not is_quick(pattern, texts):
        return _found_elsewhere(pattern, texts)
    # Without the flag first: a bad pattern has to fail with the words it has for that.
    re.compile(pattern)
    search = re.compile(pattern, re.IGNORECASE).search
    return [search(text) is not None for text in texts]


def is_quick(pattern: str, texts: Sequence[str]) -> bool:
    """Whether matching is sure to stay within the budget. May doubt a harmless pattern, never trust a harmful one."""
    if len(pattern) > _LONGEST or _DOUBTFUL.search(pattern):
        return False
    choices = len(_QUANTIFIER.findall(pattern)) + (pattern.count("|") if "(" in pattern else 0)
    if choices == 0:
        return True
    return sum(len(text) ** (choices + 1) for text in texts) <= _BUDGET


def may_wait(arguments: Mapping[str, Any]) -> bool:
    """Whether a search with these arguments could start a process, and so is no matter of microseconds."""
    return any(
        isinstance(value, str) and (len(value) > _LONGEST or _CHOICE.search(value) is not None)
        for value in arguments.values()
    )


def _found_elsewhere(pattern: str, texts: Sequence[str]) -> list[bool]:
    question = pattern, hash(tuple(texts))
    try:
        if question in _too_slow:
            raise subprocess.TimeoutExpired("", LIMIT_S)
        with _places:
            answer = _ask(pattern, texts)
    except subprocess.TimeoutExpired:
        while len(_too_slow) >= _REMEMBERED:
            _too_slow.pop(next(iter(_too_slow)), None)
        _too_slow[question] = None
        raise TimeoutError(f"matching the pattern took longer than {LIMIT_S:g} s") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"matching the pattern ended with status {error.returncode}") from None
    if isinstance(answer, str):
        raise re.error(answer)
    return answer


def _ask(pattern: str, texts: Sequence[str]) -> list[bool] | str:
    script = Path(__file__).with_name("match_process.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script)],
        input=json.dumps([pattern, list(texts)]),
        capture_output=True,
        encoding="ascii",
        timeout=LIMIT_S,
        check=True,
    )
    return json.loads(done.stdout)
