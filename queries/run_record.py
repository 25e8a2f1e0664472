"""A run as the store records it: status, settings, summary and metrics."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..base.html import html_pairs
from ..store.checkpoint_paths import shown_path
from ..store.lance_store import LanceStore, quote
from ..store.runs import find_run, list_runs

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class RunRecord:
    """One run. Wherever a run is wanted, this object may be passed instead of its id.

    Attributes:
        kind: collect, import, rescore, build, sft, dpo, grpo, replay, eval or clone.
        status: running, finished, failed or aborted.
        started_at, finished_at: UTC; `finished_at` is None while the run is running.
        incarnation: How often the run was started before this start; 0 for a run that was never resumed.
        config: The configuration of the latest start.
        summary: What the run reported at its end; None before.
    """

    store: LanceStore
    run_id: str
    kind: str
    name: str
    status: str
    started_at: datetime
    finished_at: datetime | None
    incarnation: int
    config: dict[str, Any]
    summary: dict[str, Any] | None

    @classmethod
    def read(cls, store: LanceStore, run_id: str) -> "RunRecord":
        """Reads a run, given as `store.naming.run_named` takes it. Raises StoreNotFound, which names runs of similar name, ConfigError for several."""
        return cls._of(store, find_run(store, run_id))

    @classmethod
    def read_all(cls, store: LanceStore) -> "list[RunRecord]":
        """Every run, oldest first."""
        return [cls._of(store, found) for found in list_runs(store)]

    @classmethod
    def _of(cls, store: LanceStore, found: dict[str, Any]) -> "RunRecord":
        return cls(store, **{name: value for name, value in found.items() if name != "events"})

    def metrics(self, *names: str) -> "pl.DataFrame":
        """The run's metrics as a Polars frame with the columns step (Int32), name (String) and value (Float64), by step and name.

        Where a step was taken in several incarnations, the last one counts. `names` (`train/reward`, …) restricts the rows.
        """
        import polars as pl

        columns = ["incarnation", "step", "name", "value"]
        rows = pl.DataFrame(self.store.read("metrics", columns, filter=f"run_id = {quote(self.run_id)}"))
        if names:
            rows = rows.filter(pl.col("name").is_in(list(names)))
        last = rows.sort("incarnation").group_by("step", "name").last()
        return last.select("step", "name", "value").sort("step", "name")

    def checkpoints(self) -> list[dict[str, Any]]:
        """The rows of `checkpoints` that this run wrote, by step, with absolute paths."""
        rows = self.store.read("checkpoints", filter=f"run_id = {quote(self.run_id)}").to_pylist()
        rows = [row | {"path": shown_path(self.store, row)} for row in rows]
        return sorted(rows, key=lambda row: (row["step"], row["incarnation"]))

    def __str__(self) -> str:
        return self.run_id

    def __repr__(self) -> str:
        return f"RunRecord({self.run_id!r}, kind={self.kind!r}, status={self.status!r})"

    def _repr_html_(self) -> str:
        times = [("started", self.started_at), ("finished", self.finished_at)]
        pairs = [("kind", self.kind), ("status", self.status), *times, *(self.summary or {}).items()]
        return html_pairs(pairs, title=f"run {self.run_id}")
