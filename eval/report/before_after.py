"""Evaluations against the first one on the same cases: difference, chance, and flipped cases."""

from collections.abc import Collection, Sequence
from html import escape

from ...store.lance_store import LanceStore
from ..compare import Comparison, Flip, RunComparison, compare_rows, sides
from .data import RunFacts, cases_of
from .sections import anchor, section, table

_FLIPS = 20
_MEANS = {"better": "b is better", "worse": "b is worse", "noise": "noise"}


def compare_evaluations(store: LanceStore, runs: Sequence[RunFacts], scorer: str | None = None) -> list[RunComparison]:
    """Each evaluation of the runs against the first one that judged some of the same cases.

    Args:
        scorer: The scorer whose verdicts count for cases that are rollouts; None: those of collection time.
    """
    evaluations = [facts.run for facts in runs if facts.run["kind"] == "eval"]
    rows = {run["run_id"]: cases_of(store, run["run_id"], scorer) for run in evaluations}
    keys = {run_id: sides(cases).keys() for run_id, cases in rows.items()}
    compared = []
    for number, after in enumerate(evaluations):
        same = (run for run in evaluations[:number] if keys[run["run_id"]] & keys[after["run_id"]])
        before = next(same, None)
        if before is not None:
            compared.append(compare_rows(before, rows[before["run_id"]], after, rows[after["run_id"]]))
    return compared


def flipped_rollouts(comparisons: Sequence[RunComparison]) -> list[str]:
    """Rollouts to show: both sides of each comparison's first flip, a lost one if there is one."""
    first = [comparison.flips[0] for comparison in comparisons if comparison.flips]
    return [rollout for flip in first for side in (flip.a, flip.b) if (rollout := side.rollout_ids[0]) is not None]


def before_after_section(comparisons: Sequence[RunComparison], shown: Collection[str]) -> str:
    """The table of differences and the flips.

    Args:
        shown: Sample rollouts on the page, which flips link to.
    """
    if not comparisons:
        return ""
    header = [
        "run a",
        "run b",
        "on",
        "cases",
        "a",
        "b",
        "difference",
        "95 % interval",
        "lost",
        "gained",
        "p",
        "verdict",
    ]
    rows = [_row(one, part) for one in comparisons for part in one.overall]
    note = (
        "The same cases in both runs, paired: the interval is a bootstrap over cases, p is McNemar's exact test on the cases that flipped. "
        "Noise: zero is inside the interval."
    )
    flips = "".join(_flips(one, shown) for one in comparisons if one.flips)
    return section("Before and after", table(header, rows, numbers_from=3) + flips, note)


def _row(one: RunComparison, part: Comparison) -> list[str]:
    return [
        one.run_a,
        one.run_b,
        part.benchmark or "",
        f"{part.n:,}",
        f"{part.a:.3f}",
        f"{part.b:.3f}",
        f"{part.difference:+.3f}",
        f"{part.low:+.3f} to {part.high:+.3f}",
        str(part.only_a),
        str(part.only_b),
        f"{part.p:.2g}",
        _MEANS[part.verdict],
    ]


def _flips(one: RunComparison, shown: Collection[str]) -> str:
    # Flips with rollouts come first.
    ordered = sorted(one.flips, key=lambda flip: not {*flip.a.rollout_ids, *flip.b.rollout_ids} & {*shown})
    lines = "".join(_flip(flip, shown) for flip in ordered[:_FLIPS])
    left = len(one.flips) - _FLIPS
    more = f"<li>… and {left:,} more</li>" if left > 0 else ""
    title = f"{escape(one.run_b)} against {escape(one.run_a)}: {len(one.flips):,} cases flipped"
    return f'<details><summary>{title}</summary><ul class="flips">{lines}{more}</ul></details>'


def _flip(flip: Flip, shown: Collection[str]) -> str:
    label, verdict = ("gained", "passed") if flip.gained else ("lost", "failed")
    links = [
        f'<a href="#{escape(anchor(rollout))}">{side}</a>'
        for side, rollouts in (("a", flip.a.rollout_ids), ("b", flip.b.rollout_ids))
        for rollout in rollouts
        if rollout is not None and rollout in shown
    ]
    where = " · ".join(escape(part) for part in (flip.benchmark, flip.category) if part)
    read = f" · read {' and '.join(links)}" if links else ""
    return (
        f'<li><span class="verdict {verdict}">{label}</span> {where} · <code>{escape(flip.case_id)}</code>{read}</li>'
    )
