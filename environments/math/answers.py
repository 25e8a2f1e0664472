"""Finds the answer in a text and cleans what people and models write around a value. Every pattern is bounded, so it takes linear time."""

import re
from dataclasses import dataclass

_SIGNS = re.compile(r"\\(?:boxed|fbox)\b|\\.|[{}]", re.DOTALL)
_BOXES = (r"\boxed", r"\fbox")
_BARE = re.compile(r"[^\s$.,]*")
_BEFORE = re.compile(
    r"(?:\s|~|=|:|\\[,;:! ]|\\q?quad\b|\\\\|\*\*|`|\"|\\approx\b|\\displaystyle\b|\\text\{\s{0,9}\})*+"
)
_ENDINGS = (
    r"\,",
    r"\;",
    r"\:",
    r"\!",
    r"\ ",
    r"\\",
    r"\quad",
    r"\qquad",
    r"\text{}",
    r"\text{ }",
    r"\text{.}",
    "**",
    "`",
    '"',
    *" \t\n\r.,;:?~\N{IDEOGRAPHIC FULL STOP}",
)
_NOTHING = ("", "{}", r"\ldots", r"\dots", r"\cdots", r"\square", r"\boxed")
_JUNCTIONS = {r"\lor": "or", r"\vee": "or", r"\land": "and", r"\wedge": "and"}
_NEGATION = re.compile(r"\\neq?\b|\\not?\b|\\lnot\b|\\neg\b|≠|!=|(?:\\text\{\s{0,9})?not\b", re.IGNORECASE)
_NEGATED = re.compile(
    r"(?:\bnot|n't|\bcannot|\\neq?\b|≠|!=)(?: (?:be|equal(?: to)?|exactly|simply|just)){0,2}[:\s]{0,4}[^\s]{1,80}",
    re.IGNORECASE,
)
_TAG_OPEN, _TAG_CLOSE = "<answer>", "</answer>"
_GROUPS = re.compile(r"(?P<sign>-?)(?P<money>(?:\\?\$)?)(?P<number>[0-9]{1,3}(?:(?P<mark>\{,\}|\\!,\\!|\\[,;: ]|[ '_,])[0-9]{3})(?:(?P=mark)[0-9]{3}){0,40})(?P<rest>(?:\.[0-9]{1,99})?)")  # fmt: skip
_SCIENTIFIC = re.compile(r"([+-]?[0-9]{1,99}(?:\.[0-9]{1,99})?)[eE]([+-]?[0-9]{1,9})")
_REPEATING = re.compile(r"([0-9]{0,50})\.([0-9]{0,50})\\overline\{([0-9]{1,50})\}")
_DEGREES = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s{0,9}\^\s{0,9}(?:\\circ\b|\{\s{0,9}\\circ\s{0,9}\})")
_BUILDER = re.compile(r"\\\{\s{0,9}[A-Za-z]\s{0,9}(?::|\||\\mid\b|\\vert\b)(?P<rule>.*)\\\}", re.DOTALL)
_BASE = re.compile(r"(?P<digits>[0-9A-Za-z]{1,200})_(?:\{?(?P<base>[0-9]{1,2})\}?|\{\\text\{(?P<word>[a-z]{1,12})\}\})")
_WORDS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10", "sixteen": "16"}  # fmt: skip


@dataclass(frozen=True)
class FoundAnswer:
    """Where a text states its answer.

    Attributes:
        last: The last box (or `<answer>`) of the text, "" for one that is empty or not closed; None for a text without.
        boxes: Every closed box, in order.
        after: The text after the last box.
    """

    last: str | None
    boxes: tuple[str, ...] = ()
    after: str = ""


def find_answer(text: str) -> FoundAnswer:
    """The boxes of a text, else its last `<answer>`."""
    closed: list[tuple[int, int]] = []  # start and end of each box without a box inside
    braces: list[int | None] = []  # for each open brace, where the box begins that it opens
    # Start and end of the last box; the end is 0 while it is open, and -1 for one without braces.
    newest: tuple[int, int] | None = None
    for sign in _SIGNS.finditer(text):
        if sign[0] == "{":
            braces.append(sign.end() if newest == (sign.end(), 0) else None)
        elif sign[0] == "}":
            start = braces.pop() if braces else None
            if newest is not None and newest == (start, 0):
                newest = (newest[0], sign.start())
                closed.append(newest)
        elif sign[0] in _BOXES:
            position = sign.end()
            while text.startswith(" ", position):
                position += 1
            newest = (position + 1, 0) if text.startswith("{", position) else (position, -1)
    if newest is not None and newest[1] < 0:
        newest = _BARE.match(text, newest[0]).span()  # type: ignore[union-attr]
    if newest is not None:
        return FoundAnswer(
            text[newest[0] : newest[1]] if newest[1] else "",
            tuple(text[a:b] for a, b in closed),
            text[newest[1] :] if newest[1] else "",
        )
    close = text.rfind(_TAG_CLOSE)
    start = text.rfind(_TAG_OPEN, 0, max(close, 0)) if close >= 0 else text.rfind(_TAG_OPEN)
    if start < 0:
        return FoundAnswer(None)
    return FoundAnswer(text[start + len(_TAG_OPEN) : close] if close >= 0 else "")


def without_negated(text: str) -> str:
    """The text without values that it says are not the answer: `not 42`, `isn't 42`, `≠ 42`."""
    return _NEGATED.sub(" ", text)


def is_negated(answer: str) -> bool:
    """Whether an answer says only what the value is not."""
    return _NEGATION.match(answer) is not None


def clean_answer(answer: str) -> str:
    """The answer without spacing, punctuation and emphasis around it, and its numbers in a form that the library reads.

    "" when nothing is left. Thousands separators are taken out of an answer that is one number.
    """
    answer = answer.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-").strip()
    for opening, closing in ((r"\(", r"\)"), ("$", "$")):
        if answer.startswith(opening) and answer.endswith(closing) and len(answer) >= len(opening + closing):
            answer = answer[len(opening) : -len(closing)].strip()
    start = _BEFORE.match(answer).end()  # type: ignore[union-attr]
    end = len(answer)
    while (cut := next((len(sign) for sign in _ENDINGS if answer.endswith(sign, start, end)), 0)) > 0:
        end -= cut
    answer = answer[start:end].strip()
    return "" if answer in _NOTHING else _readable(answer)


def _readable(answer: str) -> str:
    if grouped := _GROUPS.fullmatch(answer):
        digits = re.sub("[^0-9]", "", grouped["number"])
        return f"{grouped['sign']}{grouped['money']}{digits}{grouped['rest']}"
    if scientific := _SCIENTIFIC.fullmatch(answer):
        return rf"{scientific[1]} \times 10^{{{scientific[2]}}}"
    if builder := _BUILDER.fullmatch(answer):
        answer = builder["rule"].strip()
    answer = _REPEATING.sub(_as_fraction, answer)
    if any(name in answer for name in (r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc")):
        answer = _DEGREES.sub(r"(\1 \\pi / 180)", answer)
    for sign, word in _JUNCTIONS.items():
        answer = answer.replace(sign, rf" \text{{ {word} }} ")
    return answer


def _as_fraction(number: re.Match[str]) -> str:
    whole, fixed, repeated = number.groups()
    above = int(whole + fixed + repeated) - int("0" + whole + fixed)
    return rf"\frac{{{above}}}{{{(10 ** len(repeated) - 1) * 10 ** len(fixed)}}}"


def base_of(answer: str) -> tuple[str, str] | None:
    """(digits, base) of a number with its base written below; None for another answer."""
    found = _BASE.fullmatch(answer)
    if not found or not found["digits"].isalnum():
        return None
    base = found["base"] or _WORDS.get(found["word"])
    return (found["digits"].lower(), base) if base and found["digits"][0].isalnum() else None
