"""Generated problems: the same everywhere, right, and in one split only."""

import asyncio
import hashlib
import json
import math
import re
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.environments.math.draw import MathDraw, latex
from rollhouse.environments.math.generator import KINDS, generate_tasks, split_of
from rollhouse.environments.math.verifier import library_verdict
from rollhouse.store.task import Task

# Of the first 500 training tasks of seed 0: another value means that other tasks are made from the same seed.
FINGERPRINT = "6a7a7711bb0006db"


def text_of(task: Task) -> str:
    return task.messages[-1].text or ""


def test_the_same_seed_gives_the_same_tasks_everywhere() -> None:
    tasks = list(generate_tasks(0, "train", 500))
    said = json.dumps([[text_of(task), task.ground_truth] for task in tasks])
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == FINGERPRINT
    assert tasks[:50] == list(generate_tasks(0, "train", 50))
    assert text_of(next(generate_tasks(1, "train", 1))) != text_of(tasks[0])


def test_kinds_and_levels_in_turn_and_no_task_twice() -> None:
    tasks = list(generate_tasks(7, "train", 1100))
    assert {task.category for task in tasks} == set(KINDS)
    assert {task.difficulty for task in tasks} == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert len({task.task_id for task in tasks}) == len(tasks)
    wordings = {re.sub(r"[-\d]+", "0", text_of(task)) for task in tasks}
    assert len(wordings) > 300


def test_no_problem_is_in_two_splits_whatever_the_seed() -> None:
    texts = [
        {text_of(task) for seed in (0, 1, 2) for task in generate_tasks(seed, split, 400)}
        for split in ("train", "validation", "test")
    ]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])


@given(st.integers(0, 2**32), st.sampled_from(sorted(KINDS)), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_wordings_do_not_decide_the_split_and_all_hold_the_same_numbers(seed: int, kind: str, level: int) -> None:
    problem = KINDS[kind](MathDraw(seed), level)
    assert split_of(kind, problem.key) in ("train", "validation", "test")
    assert len(set(problem.wordings)) == len(problem.wordings) >= 2
    assert all("None" not in said and "  " not in said and "+ -" not in said for said in problem.wordings)


def test_calculations_are_right_to_the_library() -> None:
    """An arithmetic text read by the library as an expression has the value that was generated."""
    tasks = [task for task in generate_tasks(3, "train", 330) if task.category in ("arithmetic", "fractions")]

    async def verdicts() -> list[float]:
        texts = [re.findall(r"[$](.+)[$]", text_of(task))[0] for task in tasks]
        pairs = zip(texts, tasks, strict=True)
        return [(await library_verdict(f"${text}$", task.ground_truth)).reward for text, task in pairs]

    assert set(asyncio.run(verdicts())) == {1.0}


def test_equations_and_systems_hold_for_their_answers() -> None:
    import sympy
    from sympy.parsing.sympy_parser import implicit_multiplication_application, parse_expr, standard_transformations

    rules = (*standard_transformations, implicit_multiplication_application)
    tasks = [task for task in generate_tasks(4, "train", 220) if task.category in ("linear_equation", "system")]
    for task in tasks:
        parts = re.findall(r"\$([^$]+)\$", text_of(task))
        equations = [sympy.Eq(*(parse_expr(side, transformations=rules) for side in part.split("="))) for part in parts if "=" in part]  # fmt: skip
        asked = [part for part in parts if "=" not in part and "," not in part][-1]
        solution = sympy.solve(equations, dict=True)[0]
        value = parse_expr(asked, transformations=rules).subs(solution)
        assert latex(Fraction(int(value.p), int(value.q))) == task.ground_truth, text_of(task)


def test_remainders_and_divisors_are_right() -> None:
    for task in generate_tasks(5, "train", 600):
        text, answer = text_of(task), task.ground_truth
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        if task.category == "modular" and (task.difficulty or 0) in (3, 4):
            base, power, divisor = numbers
            assert str(pow(base, power, divisor)) == answer, text
        elif task.category == "divisors":
            expected = math.gcd(*numbers) if "greatest" in text or "largest" in text or "gcd" in text else math.lcm(*numbers)  # fmt: skip
            assert str(expected) == answer, text


def test_numbers_as_latex() -> None:
    assert [latex(value) for value in (3, Fraction(-3, 4), Fraction(8, 4), r"2\pi")] == [
        "3",
        r"-\frac{3}{4}",
        "2",
        r"2\pi",
    ]
