"""Rows of `evaluations`: their ids, and those a run has already."""

from typing import Any

from ..store.house import House, quote
from ..store.ids import hash_id


def evaluation_id(run_id: str, benchmark: str, category: str | None, case_id: str, mode: str, sample: int) -> str:
    """The key of one evaluated case: judging it again in the same run changes nothing."""
    return hash_id("evaluation", run_id, benchmark, category, case_id, mode, sample)


def rows_of_run(house: House, run_id: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The run's evaluated cases, in the order they were written."""
    return house.read("evaluations", columns=columns, filter=f"run_id = {quote(run_id)}").to_pylist()
