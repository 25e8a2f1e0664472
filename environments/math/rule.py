"""Runs in a worker process: `math-verify` on one text and one expected answer."""

import logging

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

# A text without an answer is not worth a log line, and policy text must not reach a log.
logging.disable(logging.CRITICAL)
_GOLD = (LatexExtractionConfig(),)
_PREDICTION = (ExprExtractionConfig(), LatexExtractionConfig())


def judge(text: str, expected: str) -> tuple[float, str | None]:
    """Reward (1.0 or 0.0) and the extracted answer: the first that matches, else the first, else None.

    Raises ValueError when the expected answer cannot be read.
    """
    gold = parse(rf"\boxed{{{without_delimiters(expected)}}}", _GOLD)
    if not gold:
        raise ValueError("the expected answer cannot be read")
    found = parse(text, _PREDICTION)
    for answer in found:
        if verify(gold, [answer]):
            return 1.0, str(answer)
    return 0.0, str(found[0]) if found else None


def without_delimiters(expected: str) -> str:
    """The answer without one pair of `\\(` `\\)`, then one of `$` `$`, around it."""
    expected = expected.strip()
    for start, end in ((r"\(", r"\)"), ("$", "$")):
        if expected.startswith(start) and expected.endswith(end) and len(expected) >= len(start + end):
            expected = expected[len(start) : -len(end)].strip()
    return expected
