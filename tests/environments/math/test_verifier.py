"""The rule of a math verdict, on cases whose verdicts are known, and on texts that were made to break it."""

import asyncio
from time import monotonic, thread_time

import pytest
from rollhouse.environments.math.answers import base_of, clean_answer, find_answer, is_negated, without_negated
from rollhouse.environments.math.verifier import TEXT_CHARACTERS, LibraryVerdict, library_verdict

EQUAL = [
    ("42", r"So it is \boxed{42}."),
    ("42", "The final answer is 42."),
    ("42", "I counted 42 apples"),
    ("$42$", r"\boxed{42}"),
    (r"\(42\)", r"\boxed{42}"),
    (r"\($42$\)", r"$\boxed{42}$"),
    ("42", r"It is \(42\)"),
    ("0", r"\boxed{-0}"),
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    ("0.5", r"\boxed{\frac12}"),
    ("1/2", r"\boxed{\dfrac{2}{4}}"),
    (r"\frac{1}{3}", r"\boxed{0.333333}"),
    ("1,000", r"\boxed{1000}"),
    ("50", r"\boxed{50\%}"),
    (r"50\%", r"\boxed{0.5}"),
    ("5", r"\boxed{5\text{ cm}}"),
    ("5", r"\boxed{x = 5}"),
    ("x=5", r"\boxed{5}"),
    (r"\{1, 2\}", r"\boxed{\{2, 1\}}"),
    ("(2, 1)", r"\boxed{(2,1)}"),
    ("[1, 2)", r"\boxed{[1,2)}"),
    (r"(-\infty, 3]", r"\boxed{(-\infty,3]}"),
    ("2x+1", r"\boxed{1 + 2x}"),
    (r"\sqrt{8}", r"\boxed{2\sqrt{2}}"),
    (r"\pi", r"\boxed{3.14159265}"),
    (r"\text{even}", r"The function is \boxed{\text{even}}."),
    (r"\text{(B)}", r"\boxed{\text{(B)}}"),
    # The last box is the answer, or all boxes together.
    ("5", r"Not \boxed{4} but \boxed{5}."),
    ("1331, 1728", r"\boxed{1331} and \boxed{1728}"),
    ("42", "<answer> 42 </answer>"),
    ("7", "<answer>3</answer> no, <answer>7</answer>"),
    ("42", "#### 42"),
    # Punctuation and emphasis in the box
    ("42", r"\boxed{42.}"),
    ("42", r"\boxed{\;**42**\,;}"),
    ("A", r"\boxed{(A).}"),
    ("-5", "\\boxed{\N{MINUS SIGN}5}"),
    # Thousands separators
    ("1234", r"\boxed{1{,}234}"),
    ("1234567", r"\boxed{1\,234\,567}"),
    ("1234.5", r"\boxed{\$1,234.5}"),
    ("1,234", r"\boxed{1234}"),
    ("100, 200, 300", r"\boxed{100,200,300}"),
    # One value in two forms
    ("1000", r"\boxed{1e3}"),
    (r"\frac13", r"\boxed{0.\overline{3}}"),
    (r"\frac12", r"\boxed{\sin(30^\circ)}"),
    ("1101_2", r"\boxed{1101}"),
    ("1101_2", r"\boxed{1101_{\text{two}}}"),
    (r"(2,\infty)", r"\boxed{x > 2}"),
    (r"2\le x<5", r"\boxed{[2, 5)}"),
    (r"(-\infty,-2)\cup(2,\infty)", r"\boxed{x<-2 \text{ or } x>2}"),
    ("(-2,2)", r"\boxed{x > -2 \text{ and } x < 2}"),
    (r"|x|<2", r"\boxed{-2<x<2}"),
    (r"(-\infty,2)\cup(2,\infty)", r"\boxed{x \neq 2}"),
]
DIFFERENT = [
    ("42", r"\boxed{43}"),
    ("42", "I do not know."),
    ("42", ""),
    ("-3", r"\boxed{3}"),
    ("0.333", r"\boxed{\frac13}"),
    ("(1, 2)", r"\boxed{(2,1)}"),
    ("[1, 2)", r"\boxed{[1,2]}"),
    (r"\{1, 2\}", r"\boxed{\{1, 2, 3\}}"),
    (r"\text{even}", r"\boxed{\text{odd}}"),
    ("A", r"\boxed{B}"),
    ("x=5", r"\boxed{x=6}"),
    ("4", r"\boxed{4}. Another way gives \boxed{3}."),
    ("3", "<answer>3</answer> no, <answer>7</answer>"),
    # Exact values are compared exactly, also inside others.
    (r"\frac{1}{2^{99}}", r"\boxed{\frac{1}{2^{98}}}"),
    ("0", r"\boxed{-10^{-30}}"),
    (r"\{1, 1/2^{99}\}", r"\boxed{\{1/2^{98}, 1\}}"),
    (r"(1/2^{99}, 1)", r"\boxed{(1/2^{98}, 1)}"),
    (r"10^{15}", r"\boxed{\sqrt{10^{30}+1}}"),
    (r"x = 1/2^{99}", r"\boxed{x = 1/2^{98}}"),
    # An empty box is no answer, whatever stands before it.
    *[
        ("42", f"There are 42 students. {box}")
        for box in (
            r"\boxed{}",
            r"\boxed{ }",
            r"\boxed{\text{}}",
            r"\boxed{\,}",
            r"\boxed{?}",
            r"\boxed{",
            r"\boxed",
            r"\fbox{}",
            r"\boxed{\ldots}",
        )
    ],
    ("42", "42 <answer></answer>"),
    # What it is not is no answer.
    ("42", "The answer is not 42."),
    ("42", "The answer isn't 42, it is 43."),
    ("5", r"\boxed{\neq 5}"),
    ("42", r"\boxed{\text{not } 42}"),
    ("B", r"\boxed{\text{not (B)}}"),
    # Lists and separators
    ("1", r"\boxed{1,000}"),
    ("123", r"\boxed{1,2,3}"),
    ("10", r"\boxed{10_2}"),
    ("101_2", r"\boxed{5}"),
    (r"(2,\infty)", r"\boxed{x \ge 2}"),
    ("(2, 5]", r"\boxed{2 \le x < 5}"),
    (r"(-\infty,-2)\cup(2,\infty)", r"\boxed{x<-2 \text{ or } x>3}"),
    # What cannot be read as an expected answer is never met.
    ("", r"\boxed{5}"),
]
HOSTILE = [
    r"\boxed{9^{9^{9^9}}}",
    r"\boxed{" + "{" * 5000 + "42" + "}" * 5000 + "}",
    r"\boxed{\sum_{n=1}^{10^{12}} n!}",
]
HARMLESS = [
    "\\boxed{" * 7000,
    "$" * 100_000,
    "\\frac" * 8000,
    "\\boxed{\ud800}",
    "\0\n" * 10,
    "\\boxed{__import__('os')}",
]


def verdict(expected: str, text: str, **limits: float) -> LibraryVerdict:
    return asyncio.run(library_verdict(text, expected, **limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(("expected", "text"), EQUAL)
def test_the_same(expected: str, text: str) -> None:
    assert verdict(expected, text).reward == 1.0


@pytest.mark.parametrize(("expected", "text"), DIFFERENT)
def test_not_the_same(expected: str, text: str) -> None:
    assert verdict(expected, text).reward == 0.0


STRICTLY_DIFFERENT = [
    ("42", "The final answer is 42."),
    ("1331, 1728", r"\boxed{1331} and \boxed{1728}"),
    (r"\frac{1}{3}", r"\boxed{0.333333}"),
    (r"\pi", r"\boxed{3.14159265}"),
    ("50", r"\boxed{50\%}"),
    ("1, 2", r"\boxed{(1, 2)}"),
]
STRICTLY_EQUAL = [
    ("0.5", r"\boxed{\frac12}"),
    (r"50\%", r"\boxed{0.5}"),
    (r"\sqrt{8}", r"Not \boxed{3} but \boxed{2\sqrt{2}}"),
    ("5", r"\boxed{x = 5}"),
    (r"\{1, 2\}", r"\boxed{\{2, 1\}}"),
    (r"(2,\infty)", r"\boxed{x > 2}"),
]


@pytest.mark.parametrize(("expected", "text"), STRICTLY_DIFFERENT)
def test_the_strict_rule_rejects_what_is_doubtful(expected: str, text: str) -> None:
    assert (verdict(expected, text).reward, verdict(expected, text, strict=True).reward) == (1.0, 0.0)


@pytest.mark.parametrize(("expected", "text"), STRICTLY_EQUAL)
def test_the_strict_rule_accepts_what_is_equal(expected: str, text: str) -> None:
    assert verdict(expected, text, strict=True).reward == 1.0


def test_finding_and_cleaning_an_answer_takes_linear_time() -> None:
    for piece in (
        r"\boxed{",
        r"\boxed{1}",
        "\\boxed ",
        "{",
        "}",
        "<answer>",
        ".",
        " ",
        "**",
        r"\,",
        "1,234",
        "1{,}234",
        "not 4 ",
        r"\neq ",
        "9",
        r"\overline{3}",
        r"\sin3^\circ",
        r"\{x:",
    ):
        for start in ("", r"\boxed{", "1", r"\{x:"):
            times = [_seconds(start + piece * (length // len(piece))) for length in (10_000, 40_000)]
            if times[1] > 0.003 and times[1] > 8 * times[0]:  # measured again, longer, before it is a fault
                times = [
                    min(_seconds(start + piece * (length // len(piece))) for _ in range(3))
                    for length in (40_000, 160_000)
                ]
                assert times[1] < 8 * times[0], (start, piece, times)


def _seconds(text: str) -> float:
    began = thread_time()
    find_answer(text)
    base_of(clean_answer(without_negated(text)))
    is_negated(text)
    return thread_time() - began


def test_the_extracted_answer_is_the_one_that_matches_else_the_first() -> None:
    assert verdict("5", r"\boxed{5}") == LibraryVerdict(1.0, "5")
    assert verdict("6", r"\boxed{\frac{1}{2}}") == LibraryVerdict(0.0, "1/2")
    assert verdict("6", "no number") == LibraryVerdict(0.0, None)


def test_an_expected_answer_that_cannot_be_read_is_told_apart() -> None:
    assert verdict("", r"\boxed{5}") == LibraryVerdict(0.0, None, "exception")


def test_of_a_huge_text_the_end_counts() -> None:
    filler = "We try 1 + 2 = 3. " * 100_000
    assert verdict("42", filler + r"\boxed{42}").reward == 1.0
    assert verdict("42", r"\boxed{42}" + " " * TEXT_CHARACTERS).reward == 0.0


@pytest.mark.parametrize("text", HARMLESS)
def test_nonsense_is_no_answer(text: str) -> None:
    assert verdict("42", text).reward == 0.0


def judged_with(hostile: list[str]) -> None:
    """Hostile texts and decent ones at once."""

    async def all_at_once() -> list[LibraryVerdict]:
        bad = [library_verdict(text, "42", limit_s=2.0, workers=2) for text in hostile]
        decent = [library_verdict(rf"\boxed{{{number}}}", str(number), limit_s=2.0, workers=2) for number in range(40)]
        return await asyncio.gather(*bad, *decent)

    verdicts = asyncio.run(all_at_once())
    assert {said.reward for said in verdicts[: len(hostile)]} == {0.0}
    assert {said.failure for said in verdicts[: len(hostile)]} <= {"timeout", "crash"}
    assert all(said.reward == 1.0 for said in verdicts[len(hostile) :])


def test_a_hostile_text_ends_at_the_limit_and_holds_up_nobody() -> None:
    judged_with(HOSTILE[:1])


@pytest.mark.system
def test_more_hostile_texts_than_places_hold_up_nobody() -> None:
    judged_with(HOSTILE)


@pytest.mark.system
def test_answers_wait_little_behind_many_hostile_ones() -> None:
    async def all_at_once() -> tuple[float, list[LibraryVerdict]]:
        warm = [library_verdict(HOSTILE[0], "42", limit_s=2.0, workers=4) for _ in range(16)]
        await asyncio.gather(*warm)
        bad = [asyncio.create_task(library_verdict(HOSTILE[0], "42", limit_s=2.0, workers=4)) for _ in range(20)]
        await asyncio.sleep(0)
        began = monotonic()
        decent = await asyncio.gather(
            *[library_verdict(rf"\boxed{{{n}}}", str(n), limit_s=2.0, workers=4) for n in range(20)]
        )
        waited = monotonic() - began
        await asyncio.gather(*bad)
        return waited, decent

    waited, decent = asyncio.run(all_at_once())
    assert all(said.reward == 1.0 for said in decent)
    assert waited < 8  # half a second each for twenty hostile answers in four places, and no start of a process
