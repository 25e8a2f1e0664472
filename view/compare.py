"""The compare page: runs, or steps of runs, against the first of them, case by case."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..base.errors import ConfigError, StoreNotFound
from ..eval.compare import Comparison, Key, RunComparison, compare_rows, sides
from ..eval.rows import rows_of_run
from ..store.runs import get_run
from .query import Query, one_of, whole
from .reader import Reader

PAGE = 200
_MOST = 8  # sides of one comparison
_GRIDS_KEPT = 2  # a grid of 40,000 cases takes some 30 MB
_COLUMNS = ["benchmark", "mode", "category", "case_id", "sample", "passed", "rollout_id"]


@dataclass(frozen=True)
class _Side:
    """What is compared: a run, or the rollouts of one of its steps; `rows` are as those of `evaluations`."""

    name: str
    run: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def compare(reader: Reader, query: Query) -> dict[str, Any]:
    """The sides `run=RUN` or `run=RUN@STEP` (two to eight) against the first, and a page of cases from `offset` on.

    Verdicts are those of `evaluations` where every side has them and none is a step, else those of the final rollouts by task.

    Returns:
        of (`evaluations` or `rollouts`), names, comparisons (one a later side: overall and by_category with verdict, interval and counts, only_in_a, only_in_b, differing), and
        cases ([{benchmark, mode, category, case_id, change, cells}]; cells parallel to names: {rate, n, rollout_id}, null where the side did not judge the case; `change` is lost,
        gained or same, from the first side to the last), lost first, then gained, then the rest; `flips=true` leaves the rest out. total: how many there are.

    Raises ConfigError for fewer than two sides or none in common, StoreNotFound for an unknown run.
    """
    names = list(dict.fromkeys(query.get("run", ())))
    if not 2 <= len(names) <= _MOST:
        raise ConfigError(f"A comparison is of two to {_MOST} runs, not {len(names)}.", "Select them on the runs page.")
    of, found, grid = reader.cached(("compare", tuple(names)), lambda: _compared(reader, names), _GRIDS_KEPT)
    shown = [case for case in grid if case["change"] != "same"] if one_of(query, "flips") == "true" else grid
    offset = whole(query, "offset", 0)
    return {
        "of": of,
        "names": names,
        "comparisons": [_told(one, name) for one, name in zip(found, names[1:], strict=True)],
        "cases": shown[offset : offset + PAGE],
        "total": len(shown),
        "flipped": sum(case["change"] != "same" for case in grid),
        "offset": offset,
    }


def _compared(reader: Reader, names: Sequence[str]) -> tuple[str, list[RunComparison], list[dict[str, Any]]]:
    parts = [_split(reader, name) for name in names]
    judged = [rows_of_run(reader.store, run, _COLUMNS) if step is None else [] for run, step in parts]
    evaluated = all(judged)
    if evaluated:
        listed = [_Side(name, get_run(reader.store, run), rows) for name, (run, _), rows in zip(names, parts, judged, strict=True)]  # fmt: skip
    else:  # settings of other kinds of run are not those of an evaluation, so none are compared
        listed = [_Side(name, {"run_id": name, "config": {}}, _rollouts(reader, run, step)) for name, (run, step) in zip(names, parts, strict=True)]  # fmt: skip
    first = listed[0]
    found = [compare_rows(first.run, first.rows, other.run, other.rows) for other in listed[1:]]
    return "evaluations" if evaluated else "rollouts", found, _grid(listed)


def _split(reader: Reader, name: str) -> tuple[str, int | None]:
    """The run and step of RUN or RUN@STEP; a run may have an @ in its name."""
    known = "SELECT 1 AS known FROM run_events WHERE run_id = $run UNION ALL SELECT 1 FROM rollouts WHERE run_id = $run LIMIT 1"
    if reader.row(known, run=name):
        return name, None
    run, _, step = name.rpartition("@")
    if run and step.isdigit() and reader.row(known, run=run):
        return run, int(step)
    raise StoreNotFound(f"There is no run {name!r} in {reader.store.uri}.", "Write RUN or RUN@STEP; the runs page lists runs.")  # fmt: skip


# The run's rows of `final_rollouts`: a slot is of one run, so the other runs are not read.
_LAST_ATTEMPTS = """SELECT rollout_id, task_id, environment, step, sample_index, passed, trainable, branch FROM rollouts WHERE run_id = $run
      QUALIFY row_number() OVER (PARTITION BY coalesce(slot_id, rollout_id), agent, branch ORDER BY coalesce(attempt, 0) DESC, rollout_id DESC) = 1"""


def _rollouts(reader: Reader, run: str, step: int | None) -> list[dict[str, Any]]:
    at = "" if step is None else " AND r.step = $step"
    query = f"""SELECT r.environment AS benchmark, 'rollouts' AS mode, category, r.task_id AS case_id,
      row_number() OVER (PARTITION BY r.task_id ORDER BY r.step, r.sample_index, r.rollout_id) - 1 AS sample, r.passed AS passed, r.rollout_id AS rollout_id
    FROM (SELECT rollout_id, task_id, environment, step, sample_index, passed FROM ({_LAST_ATTEMPTS})
      WHERE passed IS NOT NULL AND coalesce(trainable, true) AND coalesce(branch, 0) = 0) AS r
    LEFT JOIN (SELECT task_id, category FROM tasks) AS t ON t.task_id = r.task_id WHERE true{at}"""
    rows = reader.rows(query, run=run, **({} if step is None else {"step": step}))
    return [row | {"benchmark": row["benchmark"] or "", "case_id": row["case_id"] or ""} for row in rows]


_ORDER = {"lost": 0, "gained": 1, "same": 2}


def _grid(listed: Sequence[_Side]) -> list[dict[str, Any]]:
    cases = [sides(side.rows) for side in listed]
    keys: set[Key] = set().union(*cases)
    grid = []
    for key in keys:
        answers = [one.get(key) for one in cases]
        cells = [answer and {"rate": answer.rate, "n": len(answer.rollout_ids), "rollout_id": answer.rollout_ids[0]} for answer in answers]  # fmt: skip
        first, last = answers[0], answers[-1]
        moved = first is not None and last is not None and first.passed != last.passed
        change = "same" if not moved else "gained" if last and last.passed else "lost"
        benchmark, mode, category, case_id = key
        grid.append({"benchmark": benchmark, "mode": mode, "category": category, "case_id": case_id, "change": change, "cells": cells})  # fmt: skip
    return sorted(grid, key=lambda case: (_ORDER[case["change"]], case["benchmark"], case["category"], case["case_id"]))


def _told(one: RunComparison, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "overall": [_numbers(part) for part in one.overall],
        "by_category": [_numbers(part) for part in one.by_category],
        "only_in_a": one.only_in_a,
        "only_in_b": one.only_in_b,
        "differing": [{"setting": setting, "a": a, "b": b} for setting, a, b in one.differing],
    }


def _numbers(part: Comparison) -> dict[str, Any]:
    return asdict(part) | {"difference": part.difference, "verdict": part.verdict}
