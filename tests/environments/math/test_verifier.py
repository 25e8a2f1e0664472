"""The rule of a math verdict, on cases whose verdicts are known, and on texts that were made to break it."""

import asyncio

import pytest
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
    # Two boxes are one answer with two parts.
    ("5", r"Not \boxed{4} but \boxed{5}."),
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
