"""Kinds of problems in words and figures: each takes the draws and a level from 1 (easy) to 5 and makes one problem."""

import math
from fractions import Fraction

from .draw import MathDraw, Problem

PEOPLE = ("Amara", "Bruno", "Chen", "Dalia", "Emeka", "Freya", "Goran", "Hana", "Ivo", "Jun", "Kaya", "Liam", "Mona", "Nils")  # fmt: skip
GOODS = ("notebook", "lamp", "jacket", "kettle", "bicycle", "backpack", "chair", "camera", "tent", "radio")
WORDS = (
    *("BANANA", "LETTER", "PEPPER", "COFFEE", "BALLOON", "SUCCESS", "COMMITTEE", "PARALLEL", "KAYAK", "LEVEL", "RADAR", "APPLE"),
    *("SUMMER", "CARROT", "TOMATO", "POTATO", "COOKIE", "GUITAR", "PLANET", "SILVER", "ORANGE", "PENCIL", "MARBLE", "WINDOW"),
    *("ALFALFA", "CASCADE", "ASSESS", "INDIGO", "MUSEUM", "PAPAYA", "REFEREE", "TATTOO", "VOODOO", "ZIGZAG", "ELEVEN", "SEVEN"),
)  # fmt: skip
_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41), (12, 35, 37))


def percent(draw: MathDraw, level: int) -> Problem:
    """Percentages: of a number, discounts, one change after another, and back from the result."""
    p, q = 5 * draw.integer(1, 18), 5 * draw.integer(1, 12)
    amount, thing, who = 20 * draw.integer(2, 20 + 30 * level), draw.one(GOODS), draw.one(PEOPLE)
    if level == 1:
        wordings = (f"What is {p}% of {amount}?", f"{who} spends {p}% of {amount} coins. How many coins is that?")
        return Problem(("of", p, amount), wordings, Fraction(p * amount, 100))
    if level == 2:
        wordings = (
            f"A {thing} costs {amount} dollars and is sold at a discount of {p}%. What is the new price in dollars?",
            f"{who} buys a {thing} priced at {amount} dollars, with {p}% off. How many dollars does {who} pay?",
        )
        return Problem(("off", p, amount), wordings, Fraction((100 - p) * amount, 100))
    if level in (3, 4):
        later = 100 - q if level == 3 else 100 + q
        turn = "falls" if level == 3 else "rises again"
        wordings = (
            f"The price of a {thing} is {amount} dollars. It rises by {p}% and then {turn} by {q}%. What is the price now, in dollars?",
            f"{who} sells a {thing}. Its price of {amount} dollars first goes up by {p}%, after which it {turn} by {q}%. Find the final price in dollars.",
        )
        return Problem((turn, p, q, amount), wordings, Fraction((100 + p) * later * amount, 10_000))
    result = Fraction((100 + p) * (100 - q) * amount, 10_000)
    change = (result / amount - 1) * 100
    wordings = (
        f"A number is increased by {p}% and the result is decreased by {q}%. By how many percent has the number changed in all? Count a decrease as negative.",
        f"A stock gains {p}% in one year and loses {q}% in the next. What is its total change in percent (negative for a loss)?",
    )
    return Problem(("change", p, q), wordings, f"{_decimal(change)}\\%")


def _decimal(value: Fraction) -> str:
    """A number with a finite decimal form, exactly."""
    whole, rest = divmod(abs(value.numerator) * 10_000 // value.denominator, 10_000)
    return f"{'-' if value < 0 else ''}{whole}" + (f".{rest:04d}".rstrip("0") if rest else "")


def word_problem(draw: MathDraw, level: int) -> Problem:
    """Purchases, journeys, work done together and mixtures."""
    a, b = draw.some(PEOPLE, 2)
    thing, other = draw.some(GOODS, 2)
    n, m = draw.integer(2, 5 + 4 * level), draw.integer(2, 5 + 4 * level)
    x, y = draw.integer(2, 10 * level + 5), draw.integer(2, 10 * level + 5)
    if level == 1:
        text = f"{a} buys {n} {thing}s at {x} dollars each and {m} {other}s at {y} dollars each."
        return Problem(("buy", n, x, m, y), (f"{text} What is the total in dollars?", f"{text} How many dollars does {a} pay?"), n * x + m * y)  # fmt: skip
    if level == 2:
        text = f"{a} has {x} times as many stamps as {b}. Together they have {(x + 1) * y * n} stamps."
        return Problem(("share", x, y * n), (f"{text} How many stamps does {a} have?", f"{text} Find the number of stamps that {a} owns."), x * y * n)  # fmt: skip
    if level == 3:
        wordings = (
            f"{a} drives for {n} hours at {10 * x} km/h and then for {m} hours at {10 * y} km/h. What is the average speed of the whole journey in km/h?",
            f"A train travels {n} hours at {10 * x} km/h and another {m} hours at {10 * y} km/h. Find its average speed in km/h.",
        )
        return Problem(("speed", n, x, m, y), wordings, Fraction(10 * (n * x + m * y), n + m))
    if level == 4:
        wordings = (
            f"{a} paints a fence in {x} hours, {b} in {y} hours. How many hours do they need together?",
            f"One pipe fills a tank in {x} hours, another in {y} hours. In how many hours do both fill it?",
        )
        return Problem(("work", x, y), wordings, Fraction(x * y, x + y))
    p, q = 5 * draw.integer(1, 8), 5 * draw.integer(9, 18)
    wordings = (
        f"{a} mixes {n} litres of a {p}% acid solution with {m} litres of a {q}% one. What is the concentration of the mixture in percent?",
        f"{n} kg of an alloy with {p}% copper are melted together with {m} kg of one with {q}%. How many percent of the result are copper?",
    )
    return Problem(("mix", n, p, m, q), wordings, Fraction(n * p + m * q, n + m))


def geometry(draw: MathDraw, level: int) -> Problem:
    """Rectangles, triangles, polygons, circles and boxes."""
    a, b = draw.integer(3, 20 + 10 * level), draw.integer(3, 20 + 10 * level)
    if level == 1:
        wordings = (f"A rectangle has sides of length {a} and {b}. What is its perimeter?", f"Find the length of a fence around a rectangular field of {a} by {b}.")  # fmt: skip
        return Problem(("perimeter", *sorted((a, b))), wordings, 2 * (a + b))
    if level == 2:
        wordings = (f"What is the area of a triangle with base {a} and height {b}?", f"A triangle has a side of length {a}; the height on it is {b}. Find its area.")  # fmt: skip
        return Problem(("triangle", a, b), wordings, Fraction(a * b, 2))
    if level == 3:
        triple, k = draw.one(_TRIPLES), draw.integer(1, 40)
        x, y, z = (k * side for side in triple)
        wordings = (
            f"The legs of a right triangle are {x} and {y}. How long is its hypotenuse?",
            f"A ladder stands {x} from a wall and reaches {y} up. How long is it?",
        )
        return Problem(("hypotenuse", x, y), wordings, z)
    if level == 4:
        wordings = (
            rf"A circle of radius {a} is cut out of a circle of radius {a + b}. What is the area that is left, in terms of $\pi$?",
            rf"Two circles with the same centre have radii {a} and {a + b}. Find the area of the ring between them in terms of $\pi$.",
        )
        return Problem(("ring", a, b), wordings, rf"{(a + b) ** 2 - a * a}\pi")
    c = draw.integer(3, 40)
    wordings = (
        f"A box has edges {a}, {b} and {c}. What is the square of the length of its space diagonal?",
        f"Find the squared distance between the points $(0, 0, 0)$ and $({a}, {b}, {c})$.",
    )
    return Problem(("diagonal", *sorted((a, b, c))), wordings, a * a + b * b + c * c)


def counting(draw: MathDraw, level: int) -> Problem:
    """Choices, arrangements, paths, dice and letters."""
    n, who = draw.integer(5, 9 + 5 * level), draw.one(PEOPLE)
    k = draw.integer(2, min(6, n - 2))
    if level == 1:
        m, r = draw.integer(2, 30), draw.integer(2, 12)
        text = f"{who} has {n} shirts, {m} pairs of trousers and {r} hats."
        return Problem(("product", *sorted((n, m, r))), (f"{text} In how many ways can one of each be chosen?", f"{text} How many outfits of one of each are there?"), n * m * r)  # fmt: skip
    if level == 2:
        m = draw.integer(5, 12)
        red, blue = n + m, draw.integer(3, 30)
        wordings = (
            f"A bag holds {red} red and {blue} blue balls. One is drawn at random. What is the probability that it is red?",
            f"{who} picks one of {red} red and {blue} blue cards without looking. Find the probability of a red one.",
        )
        return Problem(("bag", red, blue), wordings, Fraction(red, red + blue))
    if level == 3:
        m, j = draw.integer(5, 12), draw.integer(2, 3)
        text = f"A committee of {k} women and {j} men is chosen from {n} women and {m} men."
        return Problem(("committee", n, k, m, j), (f"{text} In how many ways can this be done?", f"{text} How many committees are possible?"), math.comb(n, k) * math.comb(m, j))  # fmt: skip
    if level == 4:
        m, bag = draw.integer(4, 30), draw.integer(2, 3)
        wordings = (
            f"Of {n + m} tickets, {n} win. {who} draws {bag} without putting any back. What is the probability that all of them win?",
            f"A box has {n} good and {m} broken bulbs; {bag} are taken at once. Find the probability that all are good.",
        )
        return Problem(("draw", n, m, bag), wordings, Fraction(math.comb(n, bag), math.comb(n + m, bag)))
    word, fixed = draw.one(WORDS), draw.integer(0, 12)
    if fixed < 3:
        ways = math.factorial(len(word))
        for letter in set(word):
            ways //= math.factorial(word.count(letter))
        return Problem(("letters", word), (f"In how many ways can the letters of {word} be arranged?", f"How many different strings use each letter of {word} exactly once?"), ways)  # fmt: skip
    width, height = draw.integer(3, 12), draw.integer(3, 12)
    x, y = draw.integer(1, width - 1), draw.integer(1, height - 1)
    ways = math.comb(x + y, x) * math.comb(width + height - x - y, width - x)
    wordings = (
        f"How many shortest grid paths lead from $(0, 0)$ to $({width}, {height})$ through $({x}, {y})$?",
        f"{who} walks on a grid, always right or up by one, from $(0, 0)$ to $({width}, {height})$ and passes $({x}, {y})$. How many ways are there?",
    )
    return Problem(("paths", width, height, x, y), wordings, ways)
