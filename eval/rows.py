"""Rows of `evaluations`: ids, and the rows of a run."""

from typing import Any

from ..base.errors import ConfigError
from ..store.ids import hash_id
from ..store.lance_store import LanceStore, quote
from ..store.runs import Run


def evaluation_id(run_id: str, benchmark: str, category: str | None, case_id: str, mode: str, sample: int) -> str:
    """The key of one evaluated case; a second verdict in the same run is ignored."""
    return hash_id("evaluation", run_id, benchmark, category, case_id, mode, sample)


def rows_of_run(store: LanceStore, run_id: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The run's judged cases, in the order they were written; without rows that have no verdict (BFCL's memory sessions)."""
    which = f"run_id = {quote(run_id)} AND passed IS NOT NULL"
    return store.read("evaluations", columns=columns, filter=which).to_pylist()


def refuse_mixture(store: LanceStore, run: Run, benchmark: str, mode: str, policy_id: str) -> None:
    """Raises ConfigError when the run has evaluated another policy, or this benchmark in another mode: ids would collide."""
    mine = f"run_id = {quote(run.run_id)}"
    for row in store.read("evaluations", columns=["benchmark", "mode", "policy_id"], filter=mine).to_pylist():
        if row["policy_id"] != policy_id or (row["benchmark"] == benchmark and row["mode"] != mode):
            raise ConfigError(
                f"Run {run.run_id!r} holds an evaluation of {row['policy_id']} on {row['benchmark']} ({row['mode']}).",
                "Give this evaluation another --run name.",
            )
