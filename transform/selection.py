"""Candidates on their way into a dataset, and the reason of each that falls out."""

from dataclasses import dataclass, field

import polars as pl

from ..base.errors import EmptyDataset


@dataclass
class Selection:
    """What is still in, and what fell out and why.

    Attributes:
        frame: One row a candidate.
        id_column: The column of `frame` that names a candidate: rollout_id, or task_id for prompt sets.
        n_inputs: Candidates at the start.
        dropped: Frames of (id, reason), in the order the filters ran.
    """

    frame: pl.DataFrame
    id_column: str = "rollout_id"
    n_inputs: int = 0
    dropped: list[pl.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n_inputs = self.n_inputs or self.frame.height

    def keep(self, condition: pl.Expr | pl.Series, reason: str | pl.Expr) -> None:
        """Keeps the rows for which `condition` is true (null is not).

        Raises:
            EmptyDataset: This filter left nothing.
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
                f"The dataset would be empty: the filter {last!r} left out the last {out.height} of {self.n_inputs} inputs.",
                "Loosen that option, or collect more rollouts and take a new snapshot.",
            )

    def narrow(self, *columns: str) -> None:
        """Forgets all other columns: of a million rows each is worth forgetting."""
        self.frame = self.frame.select(name for name in self.frame.columns if name in columns)

    def drop_reasons(self) -> pl.DataFrame:
        """(id, reason) of everything that fell out."""
        empty = pl.DataFrame(schema={"id": pl.String, "reason": pl.String})
        return pl.concat([empty, *self.dropped])


def keep_verdicts(selection: Selection, required: bool = True) -> None:
    """Leaves the rollouts whose reward is a number, or, not required, missing. No verdict and a broken one are two reasons."""
    if required:
        selection.keep(pl.col("reward").is_not_null(), "no reward")
    selection.keep(pl.col("reward").is_finite().fill_null(True), "reward is NaN or infinite")


def status_reason() -> pl.Expr:
    """The reason of a rollout left out for its status."""
    return pl.concat_str(pl.lit("status is "), pl.col("status").fill_null("unknown"))


def is_binary(rewards: pl.Series) -> bool:
    """Whether every reward is 0 or 1."""
    return bool(rewards.drop_nulls().is_in([0.0, 1.0]).all())
