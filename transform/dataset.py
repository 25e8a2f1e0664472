"""The handle of a dataset version: read it, ask why a rollout is in or out, compare it, export it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from ..base.errors import MissingExtra
from ..base.html import html_pairs
from ..store.lance_store import LanceStore
from .explain import diff, why
from .export import DatasetExport, export_dataset, trl_batches, trl_rows
from .versions import DatasetVersion, get_dataset

if TYPE_CHECKING:
    import datasets

UNITS = {"sft": "demonstrations", "dpo": "pairs", "grpo": "prompts"}
"""What one row of each kind is called."""
_REASONS_SHOWN = 8


@dataclass(frozen=True, repr=False)
class Dataset(DatasetVersion):
    """One version of a training set, and the store that holds it.

    A row of kind `sft` is one demonstration, of `dpo` a pair of rollouts, of `grpo` a task. Its columns are those of TRL:

    - sft: `prompt` and `completion` (lists of OpenAI messages), `tools` (JSON text; None without tools), `rollout_id`,
      `run_id`, `reward` (None when the rollout has none).
    - dpo: `prompt`, `chosen`, `rejected` (lists of OpenAI messages), `tools`, `chosen_id`, `rejected_id`.
    - grpo: `prompt`, `tools`, `task_id`, `ground_truth` (JSON text; None when the task has none), `weight` (1.0 on average).

    Attributes:
        store: The store that holds the version and the rollouts it refers to.
    """

    store: LanceStore = field(kw_only=True, compare=False)

    @classmethod
    def of(cls, store: LanceStore, version: DatasetVersion) -> "Dataset":
        """The handle of a version that the store holds."""
        values = {each.name: getattr(version, each.name) for each in fields(DatasetVersion)}
        return cls(**values, store=store)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in training order, a few in memory at a time.

        Raises:
            EvalLeak: The version holds tasks of a held-out split.
            FormatError: The store lacks a rollout, prompt or task that the version refers to.
        """
        return trl_rows(self.store, self)

    def to_arrow(self) -> pa.Table:
        """All rows as one Arrow table. Arguments are JSON text that is marked as such. Raises as `rows`."""
        return pa.Table.from_batches(*trl_batches(self.store, self))

    def to_polars(self) -> pl.DataFrame:
        """All rows as one Polars frame, with the columns of `to_arrow`. Raises as `rows`."""
        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_hf(self) -> "datasets.Dataset":
        """All rows as a Hugging Face dataset, with the columns of `to_arrow`. Raises as `rows`, and MissingExtra without `datasets`."""
        try:
            from datasets import Dataset as HuggingFaceDataset
        except ImportError as error:
            raise MissingExtra("The package datasets is not installed.", "`pip install datasets`.") from error
        # In a stream a field that is marked as JSON gets that type, and datasets decodes it.
        table, stream = self.to_arrow(), pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        return HuggingFaceDataset(pa.ipc.open_stream(stream.getvalue()).read_all())

    def why(self, id: str) -> list[dict[str, Any]]:
        """Why a rollout or task is in this version, or why not.

        Args:
            id: A rollout_id or task_id, or an unambiguous prefix of one.

        Returns:
            One entry per row that holds it, else one per reason: id, in_dataset, row, role, weight, reason.

        Raises:
            StoreNotFound: The snapshot does not hold the id.
            ConfigError: Several ids begin with the prefix.
        """
        return why(self.store, self, id)

    def diff(self, other: DatasetVersion) -> dict[str, Any]:
        """How this version (left) differs from another of the same kind (right).

        Returns:
            recipe (options that differ), snapshots, in_both, only_left, only_right, reordered and reweighted (numbers of
            rows), and reasons: why a version lacks the rows that only the other one has.

        Raises:
            ConfigError: The two versions are of different kinds.
        """
        return diff(self, other)

    def export(self, format: str, path: str | Path) -> DatasetExport:
        """Writes the rows to a file in a format that another trainer reads.

        Args:
            format: sft: `trl`, `trl-messages`, `openai`, `nemo-messages`, `nemo-response`; dpo: `trl`, `nemo-preference`, `nemo-binary`;
                grpo: `trl`.
            path: JSONL, or Parquet by the suffix `.parquet` where the format has columns. An existing file is replaced.

        Raises:
            ConfigError: The kind has no such format, or the format no such suffix.
            EmptyDataset: The format can represent no row.
        """
        return export_dataset(self.store, self, format, path)

    def __repr__(self) -> str:
        return f"Dataset({self.label!r}, {self.kind}, {self.n_rows} rows, snapshot={self.snapshot!r}, fingerprint={self.fingerprint!r})"

    def _repr_html_(self) -> str:
        """A table for notebooks: what the version is, and why inputs were left out."""
        left_out = list(self.counts.get("dropped", {}).items())
        reasons = left_out[:_REASONS_SHOWN]
        if rest := left_out[_REASONS_SHOWN:]:
            reasons.append((f"{len(rest)} further reasons", sum(count for _, count in rest)))
        facts = {
            "kind": self.kind,
            "rows": f"{self.n_rows:,} {UNITS[self.kind]}",
            "tasks": self.counts.get("tasks"),
            "inputs": self.counts.get("inputs"),
            "snapshot": self.snapshot,
            "scorer": self.scorer,
            "fingerprint": self.fingerprint,
            **{f"left out: {reason}": count for reason, count in reasons},
        }
        return html_pairs(facts.items(), title=f"dataset {self.label}")


def load_dataset_version(store: LanceStore, label: str) -> Dataset:
    """The dataset version `NAME@VERSION`, or the latest version of `NAME`.

    Raises:
        StoreNotFound: The store holds no such dataset; the message names similar ones.
        ConfigError: The part after `@` is not a number.
    """
    return Dataset.of(store, get_dataset(store, label))
