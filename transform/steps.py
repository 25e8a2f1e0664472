"""Step-level pairs: two ways on from the same point, told apart by what became of all rollouts that went either way.

The value of a step is the mean reward of the group's rollouts that took it after the same messages: the Monte Carlo
estimate of Math-Shepherd (Wang et al. 2024) and IPR (Xiong et al. 2024), from rollouts that are there already.
"""

import polars as pl


def step_pairs(pool: pl.DataFrame, gap: float, min_shared: int, side: list[str]) -> pl.DataFrame:
    """The pairs, widest difference in value first within each group.

    A side is represented by one rollout that took the step: of the chosen step its best, of the rejected one its worst. The
    two share everything up to the step they differ in, so that this step is found again from their messages.

    Args:
        pool: Candidates with `g`, `idx`, `reward`, `acceptable`, and the lists `states` and `turns` of `with_digests`.
        gap: Least difference in value.
        min_shared: Assistant turns before the step.
        side: Columns a side has, `_rejected` added to those of the other; `reward` and `reward_rejected` are the steps' values.
    """
    steps = (
        pool.select("g", "idx", "reward", "acceptable", "states", "turns")
        .explode("states", "turns", empty_as_null=False)
        .with_columns(place=pl.int_range(pl.len()).over("idx"))
        .filter(pl.col("place") >= min_shared)
    )
    # A state that all left by the same turn holds no choice.
    forks = steps.filter(pl.col("turns").n_unique().over("g", "states") > 1)
    values = (
        forks.sort("idx")
        .group_by("g", "states", "turns", "place", maintain_order=True)
        .agg(
            value=pl.col("reward").mean().round(6),
            best=pl.col("idx").filter("acceptable").sort_by(pl.col("reward").filter("acceptable"), descending=True, maintain_order=True).first(),
            worst=pl.col("idx").sort_by("reward", maintain_order=True).first(),
        )
    )  # fmt: skip
    chosen = values.filter(pl.col("best").is_not_null()).sort("g", "states", -pl.col("value"), "best")
    chosen = chosen.unique(["g", "states"], keep="first", maintain_order=True)
    rejected = values.sort("g", "states", "value", "worst").unique(["g", "states"], keep="first", maintain_order=True)
    both = chosen.join(rejected, on=["g", "states", "place"], suffix="_rejected")
    wide = pl.col("value") - pl.col("value_rejected")
    both = both.filter((pl.col("turns") != pl.col("turns_rejected")) & (wide >= gap - 1e-6))
    both = both.sort("g", -wide.round(6), "place", "best", "worst_rejected")
    columns = [name for name in side if name not in ("g", "reward")]
    sides = both.select("g", "best", "worst_rejected", reward="value", reward_rejected="value_rejected")
    joined = sides.join(pool.select(columns), left_on="best", right_on="idx", maintain_order="left")
    joined = joined.join(
        pool.select(columns), left_on="worst_rejected", right_on="idx", suffix="_rejected", maintain_order="left"
    )
    return joined.rename({"best": "idx", "worst_rejected": "idx_rejected"})
