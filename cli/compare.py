"""`rollhouse eval compare`: evaluations against one another, case by case."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Format, FormatOption, StoreOption, console, open_store, print_rows

if TYPE_CHECKING:
    from ..eval.compare import Comparison, RunComparison


def register(noun: typer.Typer) -> None:
    """Adds the command to `eval`."""
    noun.command("compare")(compare)


def compare(
    run_a: Annotated[str, typer.Argument(help="The run to compare with.")],
    runs: Annotated[list[str], typer.Argument(help="One or more runs to compare with it.")],
    flips: Annotated[
        int, typer.Option(min=0, help="So many flips are shown in the table [json: all, csv: none].")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Compare evaluations on the cases both judged: difference with its interval, McNemar's test, the cases that flipped.

    Example: `rollhouse eval compare eval-base eval-grpo`.
    """
    from ..eval.compare import compare_runs

    place = open_store(store)
    compared = [compare_runs(place, run_a, run_b, seed) for run_b in runs]
    if format is not Format.table:
        flipped = [row for one in compared for row in flip_rows(one)] if format is Format.json else []
        print_rows([row for one in compared for row in comparison_rows(one)] + flipped, format)
        return
    for one in compared:
        print_comparison(one, flips)


def print_comparison(one: "RunComparison", flips: int) -> None:
    """For people: a table of numbers, what they mean, and the first flips."""
    shown = ("category", "cases", "a", "b", "difference", "low", "high", "a_only", "b_only", "p", "verdict")
    rows = [{name: _rounded(name, row[name]) for name in shown} for row in comparison_rows(one)]
    print_rows(rows, Format.table, f"{one.run_b} (b) against {one.run_a} (a)")
    say = console().print
    for whole in one.overall:
        say(f"{whole.benchmark}, {whole.n} cases: {_meaning(whole)}.", markup=False)
    if len(one.by_category) > 1:
        say("Categories are tested one by one; of twenty, one differs at 5 % by luck alone.")
    if one.only_in_a or one.only_in_b:
        say(f"Left out: {one.only_in_a} cases that only a judged, {one.only_in_b} that only b did.")
    for name, a, b in one.differing:
        say(f"The runs differ in {name}: {a!r} and {b!r}.", markup=False)
    if one.flips and flips:
        listed = [
            {name: row[name] for name in row if name not in ("record", "run_b")} for row in flip_rows(one)[:flips]
        ]
        print_rows(listed, Format.table, f"{len(listed)} of {len(one.flips)} flips")


def _meaning(whole: "Comparison") -> str:
    if whole.verdict != "noise":
        return f"b is {whole.verdict} than a: zero is outside the 95 % interval"
    if whole.low <= 0 <= whole.high:
        return "the difference is noise: zero is inside its 95 % interval"
    return f"the difference is noise: only {whole.moved} went otherwise, and so few may all go one way by luck"


def _rounded(name: str, value: Any) -> Any:
    """For the table: rates to three places, p to two digits; CSV and JSON have them whole."""
    return value if not isinstance(value, float) else float(f"{value:.2g}") if name == "p" else round(value, 3)


def comparison_rows(one: "RunComparison") -> list[dict[str, Any]]:
    """One row a category and one for all of a benchmark; `record` tells them from flips."""
    return [
        {
            "record": "comparison",
            "run_a": one.run_a,
            "run_b": one.run_b,
            "benchmark": part.benchmark,
            "category": part.category or "all",
            "cases": part.n,
            "a": part.a,
            "b": part.b,
            "difference": part.difference,
            "low": part.low,
            "high": part.high,
            "a_only": part.only_a,
            "b_only": part.only_b,
            "p": part.p,
            "verdict": part.verdict,
        }
        for part in (*one.by_category, *one.overall)
    ]


def flip_rows(one: "RunComparison") -> list[dict[str, Any]]:
    """One row a flip; the rollouts are those of the first sample."""
    return [
        {
            "record": "flip",
            "run_b": one.run_b,
            "category": flip.category,
            "case_id": flip.case_id,
            "change": "gained" if flip.gained else "lost",
            "a": flip.a.rate,
            "b": flip.b.rate,
            "rollout_a": flip.a.rollout_ids[0],
            "rollout_b": flip.b.rollout_ids[0],
        }
        for flip in one.flips
    ]
