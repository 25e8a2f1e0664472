"""Runs in a worker process: the verdict on one text and one expected answer, by `math-verify` and what it gets wrong."""

import logging
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from .answers import base_of, clean_answer, find_answer, is_negated, without_negated
from .exact import differ, equal_sets

# A text without an answer is not worth a log line, and policy text must not reach a log.
logging.disable(logging.CRITICAL)
_GOLD = (LatexExtractionConfig(),)
_PREDICTION = (ExprExtractionConfig(), LatexExtractionConfig())
_ANNOUNCED = "final answer"


def judge(text: str, expected: str) -> tuple[float, str | None]:
    """Reward (1.0 or 0.0) and the extracted answer: the one that matches, else the first, else None.

    The answer is the text's last box; else several boxes together; without a box the last `<answer>`, else what the library extracts. An answer that is
    empty or negated is wrong.

    Raises ValueError when the expected answer cannot be read.
    """
    gold = _Expected(expected)
    found = find_answer(text)
    if found.last is None:
        return gold.compare_text(without_negated(text))
    if _ANNOUNCED in found.after.lower():
        return gold.compare_text(without_negated(found.after))
    said = gold.compare(found.last)
    if said[0] or not clean_answer(found.last):
        return said
    boxes = list(dict.fromkeys(found.boxes))
    together = gold.compare_text(" ".join(rf"\boxed{{{box}}}" for box in boxes)) if len(boxes) > 1 else said
    return together if together[0] else said


def judge_strictly(text: str, expected: str) -> tuple[float, str | None]:
    """As `judge`, for the last box or `<answer>` alone, and with every value compared exactly: no rounding, and a percentage is a part of one.

    Raises ValueError when the expected answer cannot be read.
    """
    found = find_answer(text)
    gold = _Expected(expected, strict=True)
    return gold.compare(found.last) if found.last is not None else (0.0, None)


class _Expected:
    """The expected answer."""

    def __init__(self, expected: str, strict: bool = False) -> None:
        self._plain = plain = without_delimiters(expected)
        self._text = clean_answer(plain)
        self._base = base_of(self._text)
        self._strict = strict
        self._values = _parse_box(self._text) or _parse_box(plain)
        if not self._values:
            raise ValueError("the expected answer cannot be read")

    def compare(self, answer: str) -> tuple[float, str | None]:
        """The verdict on one answer."""
        cleaned = clean_answer(answer)
        if not cleaned:
            return 0.0, None
        if is_negated(cleaned) and not is_negated(self._text):
            return 0.0, cleaned
        if _without_spaces(cleaned) == _without_spaces(self._text) or _without_spaces(answer) == _without_spaces(
            self._plain
        ):
            return self._first(cleaned, 1.0)
        base = base_of(cleaned)
        if base or self._base:
            return float(self._same_base(cleaned, base)), cleaned
        return self._any(cleaned, _parse_box(cleaned))

    def compare_text(self, text: str) -> tuple[float, str | None]:
        """The verdict on what the library extracts from a text."""
        return self._any(text, parse(text, _PREDICTION))

    def _first(self, text: str, reward: float) -> tuple[float, str | None]:
        found = _parse_box(text)
        return reward, str(found[0]) if found else text

    def _any(self, text: str, found: list[Any]) -> tuple[float, str | None]:
        for answer in found:
            if self._same(answer, text):
                return 1.0, str(answer)
        return 0.0, str(found[0]) if found else None

    def _same(self, answer: Any, text: str) -> bool:
        if verify(self._values, [answer]):
            return not any(
                differ(gold, answer, self._strict)
                for gold in self._values
                if not isinstance(gold, str) and not isinstance(answer, str)
            )
        return any(equal_sets(gold, self._text, answer, text) for gold in self._values)

    def _same_base(self, answer: str, base: tuple[str, str] | None) -> bool:
        """A number in another base than ten equals the same digits in that base, or without a base where one is expected."""
        if base and self._base:
            return base == self._base
        if self._base:
            return answer.lower() == self._base[0]
        assert base is not None
        return base[1] == "10" and self.compare(base[0])[0] == 1.0


def _parse_box(answer: str) -> list[Any]:
    return parse(rf"\boxed{{{answer}}}", _GOLD)


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def without_delimiters(expected: str) -> str:
    """The answer without one pair of `\\(` `\\)`, then one of `$` `$`, around it."""
    expected = expected.strip()
    for start, end in ((r"\(", r"\)"), ("$", "$")):
        if expected.startswith(start) and expected.endswith(end) and len(expected) >= len(start + end):
            expected = expected[len(start) : -len(end)].strip()
    return expected
