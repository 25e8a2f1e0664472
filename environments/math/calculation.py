"""Kinds of problems to calculate: each takes the draws and a level from 1 (easy) to 5 and makes one problem."""

import math
from fractions import Fraction

from .draw import MathDraw, Number, Problem, latex, linear, signed, term

_SYMBOLS = {"+": "+", "-": "-", "*": r"\times", "/": r"\div"}


def arithmetic(draw: MathDraw, level: int) -> Problem:
    """A bracketed expression of integers."""
    text, value = _expression(draw, level + 1, 9 + 6 * level)
    return Problem(
        (text,),
        (
            f"Compute ${text}$.",
            f"What is the value of ${text}$?",
            f"Evaluate the expression ${text}$.",
            f"Work out ${text}$ and give the result as an integer.",
        ),
        value,
    )


def _expression(draw: MathDraw, operations: int, size: int, outer: str = "") -> tuple[str, int]:
    """So many operations; bracketed where it stands under `outer` and needs it."""
    if operations == 0:
        value = draw.integer(2, size)
        return str(value), value
    left = draw.integer(0, operations - 1)
    sign = draw.one("+-*")
    # Factors are small, so that a product stays one that can be worked out by hand.
    a, x = _expression(draw, left, size if sign != "*" else 9, sign)
    b, y = _expression(draw, operations - 1 - left, size if sign != "*" else 9, sign + "right")
    value = x + y if sign == "+" else x - y if sign == "-" else x * y
    text = f"{a} {_SYMBOLS[sign]} {b}"
    bracketed = (outer.startswith("*") and sign != "*") or (outer == "-right" and sign != "*") or outer == "*right"
    return (f"({text})" if bracketed else text), value


def fractions(draw: MathDraw, level: int) -> Problem:
    """Fractions added, multiplied and divided."""
    values = [Fraction(draw.nonzero(4 + 4 * level), draw.integer(2, 4 + 2 * level)) for _ in range(2 + level // 2)]
    text, total = latex(values[0]), values[0]
    for value in values[1:]:
        sign = draw.one("+-*/" if level > 1 and len(values) == 2 else "+-")
        shown = latex(value) if value > 0 else rf"\left({latex(value)}\right)"
        text += f" {_SYMBOLS[sign]} {shown}"
        total = {"+": total + value, "-": total - value, "*": total * value, "/": total / value}[sign]
    return Problem(
        (text,),
        (
            f"Compute ${text}$. Give the answer as a fraction in lowest terms.",
            f"Write ${text}$ as a single fraction in lowest terms.",
            f"What is ${text}$, exactly?",
        ),
        total,
    )


def linear_equation(draw: MathDraw, level: int) -> Problem:
    """One unknown, on both sides from level 2 on, under brackets from level 4 on."""
    name, size = draw.one("xyzt"), 3 + 4 * level
    a, b, d = draw.nonzero(size), draw.nonzero(4 * size), draw.nonzero(4 * size)
    c = 0 if level == 1 else draw.nonzero(size)
    k = draw.integer(2, 2 + level) if level >= 4 else 1
    if k * a == c:
        c += 1
    left = f"{term(a, name, first=True)}{signed(b)}"
    left = f"{k}({left})" if k > 1 else left
    right = f"{term(c, name, first=True)}{signed(d)}" if c else latex(d)
    return Problem(
        (k, a, b, c, d),
        (
            f"Solve ${left} = {right}$ for ${name}$.",
            f"Find the value of ${name}$ that satisfies ${left} = {right}$.",
            f"If ${left} = {right}$, what is ${name}$?",
        ),
        Fraction(d - k * b, k * a - c),
    )


def system(draw: MathDraw, level: int) -> Problem:
    """Two unknowns, three from level 4 on, with integer solutions; one number is the answer."""
    names = "xyz" if level >= 4 else "xy"
    size = 2 + level
    solution = [draw.nonzero(4 + 3 * level) for _ in names]
    rows = [[draw.nonzero(size) for _ in names] for _ in names]
    while _determinant(rows) == 0:
        rows = [[draw.nonzero(size) for _ in names] for _ in names]
    sums = [sum(a * x for a, x in zip(row, solution, strict=True)) for row in rows]
    shown = ", ".join(f"${linear(row, names)} = {value}$" for row, value in zip(rows, sums, strict=True))
    wanted = [draw.integer(-1, 2) for _ in names] if level >= 2 else [1, 0]
    if not any(wanted):
        wanted[0] = 1
    asked = linear(wanted, names)
    return Problem(
        (tuple(map(tuple, rows)), tuple(sums), tuple(wanted)),
        (
            f"The numbers ${', '.join(names)}$ satisfy {shown}. Find ${asked}$.",
            f"Given {shown}, what is the value of ${asked}$?",
            f"Solve the system {shown} and give ${asked}$.",
        ),
        sum(a * x for a, x in zip(wanted, solution, strict=True)),
    )


def _determinant(rows: list[list[int]]) -> int:
    if len(rows) == 2:
        return rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
    minors = [[row[:i] + row[i + 1 :] for row in rows[1:]] for i in range(3)]
    return sum((-1) ** i * rows[0][i] * _determinant(minors[i]) for i in range(3))


def modular(draw: MathDraw, level: int) -> Problem:
    """Remainders of sums, products and powers."""
    m = draw.integer(5, 9 + 10 * level)
    if level <= 2:
        a, b = draw.integer(20, 90 * level), draw.integer(20, 90 * level)
        text, value = rf"{a} \times {b}" if level == 2 else f"{a} + {b}", a * b if level == 2 else a + b
    else:
        a, n = draw.integer(2, 6 * level), draw.integer(5, 40 * level)
        text, value = f"{a}^{{{n}}}", a**n
        if level == 5:
            b = draw.integer(2, 60)
            text, value = f"{text} + {b}", value + b
    return Problem(
        (text, m),
        (
            f"What is the remainder when ${text}$ is divided by ${m}$?",
            rf"Find the smallest non-negative integer $r$ with ${text} \equiv r \pmod{{{m}}}$.",
            rf"Compute $({text}) \bmod {m}$.",
        ),
        value % m,
    )


def divisors(draw: MathDraw, level: int) -> Problem:
    """Greatest common divisors and least common multiples of two or three numbers."""
    shared = draw.integer(2, 6 * level)
    numbers = tuple(sorted(shared * draw.integer(2, 6 + 6 * level) for _ in range(3 if level >= 4 else 2)))
    listed = ", ".join(f"${number}$" for number in numbers[:-1]) + f" and ${numbers[-1]}$"
    if draw.one((True, False)):
        wordings = (
            f"What is the greatest common divisor of {listed}?",
            f"Find the largest positive integer that divides {listed}.",
            rf"Compute $\gcd({', '.join(map(str, numbers))})$.",
        )
        return Problem(("gcd", *numbers), wordings, math.gcd(*numbers))
    wordings = (
        f"What is the least common multiple of {listed}?",
        f"Find the smallest positive integer that is a multiple of {listed}.",
        f"Lights flash every {listed} seconds and have just flashed together. After how many seconds do they flash together again?",
    )
    return Problem(("lcm", *numbers), wordings, math.lcm(*numbers))


def sequence(draw: MathDraw, level: int) -> Problem:
    """Terms and sums of arithmetic and geometric sequences; recurrences at level 5."""
    first, n = draw.nonzero(5 + 5 * level), draw.integer(6, 10 + 10 * level)
    if level == 5:
        a, b, n = draw.integer(2, 4), draw.nonzero(9), draw.integer(5, 8)
        value = first
        for _ in range(n - 1):
            value = a * value + b
        rule = f"$a_1 = {first}$ and $a_{{k+1}} = {term(a, 'a_k', first=True)}{signed(b)}$"
        wordings = (f"A sequence has {rule} for $k \\ge 1$. Find $a_{{{n}}}$.", f"Let {rule}. What is $a_{{{n}}}$?")
        return Problem(("recurrence", first, a, b, n), wordings, value)
    if level in (1, 2):
        step = draw.nonzero(4 + 5 * level)
        terms = [first + i * step for i in range(n)]
        rule = "arithmetic"
    else:
        step, n = draw.one((2, 3, -2, -3, 4)), draw.integer(5, 8)
        terms = [first * step**i for i in range(n)]
        rule = "geometric"
    shown = f"${', '.join(map(str, terms[:4]))}, \\ldots$"
    wanted: Number = sum(terms) if level % 2 == 0 else terms[-1]
    asked = f"the sum of the first {n} terms" if level % 2 == 0 else f"term number {n}"
    wordings = (
        f"The sequence {shown} is {rule}. Find {asked}.",
        f"What is {asked} of the {rule} sequence {shown}?",
        f"A {rule} sequence starts {shown}. Compute {asked}.",
    )
    return Problem((rule, first, step, n, asked), tuple(said.replace("A arith", "An arith") for said in wordings), wanted)  # fmt: skip
