"""Kinds of programming problems: functions to fix and scripts to write, each with its right program and the inputs that test it."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..math.draw import MathDraw

_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch")


@dataclass(frozen=True)
class CodeProblem:
    """One problem.

    Attributes:
        request: What the user wants.
        path: The file to fix or to write.
        broken: The file as it is; None for a script to write.
        right: The file that solves it.
        function: The function that is tested; None for a script.
        inputs: Arguments of the function, or texts for the script's input.
        expected: Parallel to the inputs: the function's value, or the script's output.
    """

    request: str
    path: str
    broken: str | None
    right: str
    function: str | None
    inputs: tuple[Any, ...]
    expected: tuple[Any, ...]


def _fix(draw: MathDraw, what: str, right: str, wrong: tuple[str, str], rule: Callable[..., Any], inputs: list[list[Any]]) -> CodeProblem:  # fmt: skip
    """A function to fix. `right` has NAME where the function's name stands; `wrong` is the part that is replaced, and by what."""
    name = f"{draw.one(_WORDS)}_{draw.one(_WORDS)}"
    path, right = f"{draw.one(_WORDS)}.py", right.replace("NAME", name)
    assert wrong[0] in right
    expected = tuple(json.loads(json.dumps(rule(*given))) for given in inputs)
    request = f"The function `{name}` in `{path}` is wrong. {what} For example, `{name}({', '.join(map(repr, inputs[0]))})` is `{expected[0]!r}`. Fix it."
    return CodeProblem(request, path, right.replace(*wrong, 1), right, name, tuple(inputs), expected)


def _numbers(draw: MathDraw, low: int = -20, high: int = 40) -> list[int]:
    return [draw.integer(low, high) for _ in range(draw.integer(4, 9))]


def scaled(draw: MathDraw) -> CodeProblem:
    """Values above a bound, scaled and moved."""
    factor, move, bound = draw.integer(2, 9), draw.integer(1, 9), draw.integer(0, 9)
    right = f"def NAME(values):\n    return [{factor} * value + {move} for value in values if value > {bound}]\n"
    what = (
        f"It takes a list of numbers and returns, for each value above {bound}, {factor} times the value plus {move}."
    )
    wrong = draw.one([(f"> {bound}", f">= {bound}"), (f"+ {move}", f"- {move}"), (f"{factor} *", f"{factor} +")])
    inputs = [[[bound, bound + 1, *_numbers(draw)]] for _ in range(6)] + [[[]]]
    return _fix(draw, what, right, wrong, lambda values: [factor * v + move for v in values if v > bound], inputs)


def chunked(draw: MathDraw) -> CodeProblem:
    """Sums of chunks."""
    size, least = draw.integer(2, 7), draw.integer(0, 12)
    right = (
        f"def NAME(values):\n    sums = []\n    for start in range(0, len(values), {size}):\n"
        f"        total = sum(values[start : start + {size}])\n        if total >= {least}:\n            sums.append(total)\n    return sums\n"
    )
    what = f"It cuts a list of numbers into chunks of {size}, the last of which may be shorter, and returns the sums that are at least {least}."
    wrong = draw.one([(f"start + {size}]", f"start + {size - 1}]"), (f">= {least}", f"> {least}"), ("len(values)", f"len(values) - {size - 1}")])  # fmt: skip

    def rule(values: list[int]) -> list[int]:
        sums = [sum(values[start : start + size]) for start in range(0, len(values), size)]
        return [total for total in sums if total >= least]

    inputs = [[_numbers(draw, -5, 15) + [least] + [0] * draw.integer(0, 2)] for _ in range(5)]
    edges = [[[least]], [[least, *[0] * (size - 1)]], [[50] * (size + 1)], [[]]]
    return _fix(draw, what, right, wrong, rule, inputs + edges)


def shifted(draw: MathDraw) -> CodeProblem:
    """A shift cipher."""
    shift = draw.integer(1, 25)
    mark = draw.one(["-", "_", ".", "*"])
    right = (
        f"def NAME(text):\n    found = ''\n    for letter in text:\n        if letter.islower():\n"
        f"            found += chr((ord(letter) - ord('a') + {shift}) % 26 + ord('a'))\n        elif letter.isupper():\n"
        f"            found += chr((ord(letter) - ord('A') + {shift}) % 26 + ord('A'))\n        else:\n            found += '{mark}'\n    return found\n"
    )
    what = f"It moves each letter a to z {shift} places on in the alphabet, begins again after z, keeps capitals, and writes `{mark}` for any other character."
    wrong = draw.one([(" % 26 + ord('A')", " + ord('A')"), (f"'{mark}'", "letter"), (f"ord('a') + {shift}", f"ord('a') - {shift}")])  # fmt: skip

    def moved(letter: str) -> str:
        if not letter.isalpha():
            return mark
        start = ord("a") if letter.islower() else ord("A")
        return chr((ord(letter) - start + shift) % 26 + start)

    texts = [f"{draw.one(_WORDS).title()} {draw.one(_WORDS)} {draw.integer(1, 99)}!" for _ in range(5)]
    return _fix(draw, what, right, wrong, lambda text: "".join(map(moved, text)), [[text] for text in [*texts, "AaZz", ""]])  # fmt: skip


def _write(draw: MathDraw, what: str, right: str, rule: Callable[[str], str], inputs: list[str]) -> CodeProblem:
    path = f"{draw.one(_WORDS)}_{draw.one(_WORDS)}.py"
    expected = tuple(rule(text) for text in inputs)
    request = (
        f"Write the script `{path}`. {what}\n\nFor example, for the input\n\n{inputs[0]}\nit prints\n\n{expected[0]}"
    )
    return CodeProblem(request, path, None, right, None, tuple(inputs), expected)


def column(draw: MathDraw) -> CodeProblem:
    """The sum of a column of some rows."""
    mark, place, word = draw.one([",", ";", "|"]), draw.integer(2, 4), draw.one(_WORDS)
    factor = draw.integer(1, 5)
    right = (
        f"import sys\n\ntotal = 0\nfor line in sys.stdin:\n    parts = line.rstrip('\\n').split('{mark}')\n"
        f"    if parts[0] == '{word}':\n        total += {factor} * int(parts[{place - 1}])\nprint(total)\n"
    )
    what = (
        f"It reads lines of four fields separated by `{mark}` from its standard input and prints the sum of field {place}"
        f"{f', times {factor},' if factor > 1 else ''} over the lines whose first field is `{word}`."
    )

    def rule(text: str) -> str:
        rows = [line.split(mark) for line in text.splitlines()]
        return f"{sum(factor * int(row[place - 1]) for row in rows if row[0] == word)}\n"

    def table() -> str:
        names = [draw.one([word, draw.one(_WORDS)]) for _ in range(draw.integer(3, 8))]
        return "".join(mark.join([name, *(str(draw.integer(-9, 99)) for _ in range(3))]) + "\n" for name in names)

    return _write(draw, what, right, rule, [table() for _ in range(5)] + [""])


def frequent(draw: MathDraw) -> CodeProblem:
    """The most frequent words."""
    most, least, mark = draw.integer(2, 5), draw.integer(1, 3), draw.one([" ", ": ", "=", " x "])
    right = (
        f"import sys\nfrom collections import Counter\n\ncounts = Counter(sys.stdin.read().lower().split())\n"
        f"ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))\n"
        f"for word, count in ordered[:{most}]:\n    if count >= {least}:\n        print(f'{{word}}{mark}{{count}}')\n"
    )
    what = (
        f"It reads a text from its standard input and prints the {most} most frequent words that occur at least {least} times, one a line as WORD{mark}COUNT, the most frequent "
        "first and equal ones in alphabetical order. Case does not count, and words are separated by white space."
    )

    def rule(text: str) -> str:
        ordered = sorted(Counter(text.lower().split()).items(), key=lambda item: (-item[1], item[0]))
        return "".join(f"{word}{mark}{count}\n" for word, count in ordered[:most] if count >= least)

    def text() -> str:
        words = draw.some(_WORDS, 5)
        chosen = [draw.one(words) for _ in range(draw.integer(8, 20))]
        return " ".join(word.title() if draw.integer(0, 3) == 0 else word for word in chosen) + "\n"

    return _write(draw, what, right, rule, [text() for _ in range(5)] + [""])


KINDS: dict[str, Callable[[MathDraw], CodeProblem]] = {
    "fix_scaled": scaled,
    "write_column": column,
    "fix_chunked": chunked,
    "write_frequent": frequent,
    "fix_shifted": shifted,
}
"""By category; a generator takes them in turn."""
