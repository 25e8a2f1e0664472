"""The candidates of a dataset, and a reason for each one that is dropped."""

from dataclasses import dataclass, field

import polars as pl

from ..base.errors import EmptyDataset


@dataclass
class Selection:
    """The remaining candidates, and the dropped ones with their reasons.

    Attributes:
        frame: One row per remaining candidate.
        id_column: The column of `frame` that identifies a candidate: rollout_id or offset, or task_id for prompt sets.
        n_inputs: Number of candidates at the start.
        dropped: Frames of (id, reason), in the order of the filters.
    """

    frame: pl.DataFrame
    id_column: str = "rollout_id"
    n_inputs: int = 0
    dropped: list[pl.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n_inputs = self.n_inputs or self.frame.height

    def keep(self, condition: pl.Expr | pl.Series, reason: str | pl.Expr) -> None:
        """Keeps the rows for which `condition` is true (not null) and drops the others with `reason`.

        Raises:
            EmptyDataset: No row is left.
        """
        kept = self.frame.select(_kept=condition).to_series().fill_null(False)
        if kept.len() == 1 != self.frame.height:
            kept = pl.repeat(bool(kept[0]), self.frame.height, dtype=pl.Boolean, eager=True)
        if kept.all():
            return
        why = pl.lit(reason) if isinstance(reason, str) else reason
        out = self.frame.filter(~kept).select(id=pl.col(self.id_column), reason=why)
        self.dropped.append(out)
        self.frame = self.frame.filter(kept)
        if self.frame.is_empty():
            last = out["reason"].mode().sort()[0]
            raise EmptyDataset(
                f"The dataset would be empty: the filter {last!r} dropped the last {out.height} of {self.n_inputs} inputs.",
                "Relax that option, or collect more rollouts and take a new snapshot.",
            )

    def narrow(self, *columns: str) -> None:
        """Removes all other columns, to save memory."""
        self.frame = self.frame.select(name for name in self.frame.columns if name in columns)

    def drop_reasons(self) -> pl.DataFrame:
        """(id, reason) of every dropped candidate."""
        empty = pl.DataFrame(schema={"id": pl.String, "reason": pl.String})
        return pl.concat([empty, *self.dropped])


def keep_verdicts(selection: Selection, required: bool = True) -> None:
    """Keeps the rollouts with a finite reward; unless `required`, also those without a reward."""
    if required:
        selection.keep(pl.col("reward").is_not_null(), "no reward")
    selection.keep(pl.col("reward").is_finite().fill_null(True), "reward is NaN or infinite")


def status_reason() -> pl.Expr:
    """The reason for dropping a rollout because of its status."""
    return pl.concat_str(pl.lit("status is "), pl.col("status").fill_null("unknown"))


def is_binary(rewards: pl.Series) -> bool:
    """Whether every reward is 0 or 1."""
    return bool(rewards.drop_nulls().is_in([0.0, 1.0]).all())
