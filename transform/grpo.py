"""Prompt sets: the tasks on which the rewards of a group differ, because only those give a gradient."""

from typing import Any

import polars as pl

from .options import GrpoOptions
from .order import shuffled
from .selection import Selection, keep_verdicts, status_reason
from .sft import cap_categories

# Only the columns that are needed: each one costs time on a million rollouts.
WANTED = (
    "task_id", "branch", "trainable", "policy_id", "policy_version", "status", "reward", "passed", "started_at",
)  # fmt: skip
_Z95 = 1.959963984540054
_DAY_US = 86_400_000_000


def task_statistics(selection: Selection, known: pl.DataFrame, options: GrpoOptions) -> Selection:
    """From rollouts to tasks: `n` scored rollouts, `k` solved, the mean reward and its spread, and the task's prompt and category.

    Infrastructure failures and rollouts without a verdict are dropped first, because they tell nothing about a task; a truncated
    rollout counts as a failure. A rollout is solved when its verdict passed, or, without one, at reward 1. A task with only
    rollouts past the age limit has n = 0: it is unknown, or dropped if the options demand it.

    Args:
        known: `task_id`, `prompt_id` and `category` of every task of the store.
    """
    rollouts = selection
    rollouts.keep(pl.col("trainable").fill_null(True), "not the agent being trained")
    rollouts.keep(pl.col("branch").fill_null(0) == 0, "another branch of its episode")
    rollouts.keep(pl.col("status").is_in(["completed", "truncated"]), status_reason())
    keep_verdicts(rollouts)
    rollouts.frame = rollouts.frame.with_columns(fresh=_fresh(options))
    if options.stale == "drop":
        rollouts.keep(pl.col("fresh"), "past the age limit")
    fresh = pl.col("fresh")
    # One lazy query, grouped by a 64-bit hash, because numbers are compared faster than ids. The rewards of old rollouts become
    # null first: a filter within each group would take ten times as long.
    judged = rollouts.frame.lazy().select(
        "task_id",
        "fresh",
        g=pl.col("task_id").hash(),
        solved=pl.col("passed").fill_null(pl.col("reward") >= 1.0) & fresh,
        judged=pl.when(fresh).then("reward"),
    )
    tasks = judged.group_by("g").agg(
        task_id=pl.col("task_id").first(),
        n=fresh.sum().cast(pl.Int64),
        k=pl.col("solved").sum().cast(pl.Int64),
        mean_reward=pl.col("judged").mean().round(6),
        spread=(pl.col("judged").max() - pl.col("judged").min()).fill_null(0),
    )
    known = known.with_columns(g=pl.col("task_id").hash()).select("g", "prompt_id", "category")
    return Selection(tasks.sort("g").collect().join(known, on="g", how="left", maintain_order="left"), "task_id")


def pass_rate_sources(selection: Selection) -> list[dict[str, Any]]:
    """The policies whose rollouts the pass rates come from, most rollouts first: policy_id, first_version, last_version, rollouts."""
    found = selection.frame.filter("fresh").group_by("policy_id").agg(
        first_version=pl.col("policy_version").min(), last_version=pl.col("policy_version").max(), rollouts=pl.len()
    )  # fmt: skip
    return found.sort("rollouts", "policy_id", descending=[True, False]).head(20).to_dicts()


def choose_prompts(tasks: Selection, options: GrpoOptions) -> pl.DataFrame:
    """The tasks of the prompt set with their `weight`, in training order."""
    unknown = pl.col("n") == 0
    tasks.keep(unknown | (pl.col("n") >= options.min_samples), f"fewer than {options.min_samples} rollouts")
    spared = unknown | _probes(tasks.frame, options)
    if options.zero_variance == "exclude":
        tasks.keep((pl.col("k") < pl.col("n")) | (pl.col("spread") > 0) | spared, "always solved")
        tasks.keep((pl.col("k") > 0) | (pl.col("spread") > 0) | spared, "never solved")
    if options.pass_band is not None:
        low, high = options.pass_band
        tasks.keep((wilson(-1) <= high) & (wilson(+1) >= low) | spared, f"pass rate outside {low:g} to {high:g}")
    tasks.frame = shuffled(tasks.frame, options.seed, "task_id")
    cap_categories(tasks, options.max_per_category)
    if options.category_mix:
        _mix(tasks, options.category_mix)
    if options.max_prompts is not None:
        tasks.keep(pl.int_range(pl.len()) < options.max_prompts, f"over {options.max_prompts} prompts")
    return _ordered(tasks.frame.with_columns(weight=_weight(options)), options)


def wilson(side: int) -> pl.Expr:
    """One end of the 95 % Wilson score interval of k successes in n (Wilson 1927): side -1 is the lower end, +1 the upper."""
    n, p = pl.col("n"), pl.col("k") / pl.col("n")
    centre = p + _Z95**2 / (2 * n)
    spread = _Z95 * (p * (1 - p) / n + _Z95**2 / (4 * n**2)).sqrt()
    return (centre + side * spread) / (1 + _Z95**2 / n)


def prompt_references(prompts: pl.DataFrame) -> pl.DataFrame:
    """The references of a version: one task per row."""
    return prompts.select(
        rollout_id=pl.lit(None, pl.String), task_id="task_id", branch=pl.lit(None, pl.Int32), weight="weight",
        role=pl.lit("prompt"), row=pl.int_range(pl.len()),
    )  # fmt: skip


def _fresh(options: GrpoOptions) -> pl.Expr:
    """Whether a rollout is within the age limits; a rollout of unknown age is."""
    fresh = pl.lit(True)
    if options.max_age_versions is not None:
        behind = pl.col("policy_version").max().over("policy_id") - pl.col("policy_version")
        fresh = fresh & (behind.fill_null(0) <= options.max_age_versions)
    if options.max_age_days is not None:
        age = pl.col("started_at").max() - pl.col("started_at")
        fresh = fresh & (age.dt.total_microseconds().fill_null(0) <= options.max_age_days * _DAY_US)
    return fresh


def _mix(tasks: Selection, shares: dict[str, float]) -> None:
    """Keeps the largest set whose categories have these shares."""
    total = sum(shares.values())
    tasks.keep(
        pl.col("category").is_in([name for name, share in shares.items() if share > 0]), "not in the category mix"
    )
    counts = dict(tasks.frame.group_by("category").len().iter_rows())
    size = min(counts.get(name, 0) * total / share for name, share in shares.items() if share > 0)
    quota = {name: int(size * share / total + 1e-9) for name, share in shares.items()}
    place = pl.int_range(pl.len()).over("category")
    bound = pl.col("category").replace_strict(quota, default=0, return_dtype=pl.Int64)
    tasks.keep(place < bound, "over its category's share")


def _weight(options: GrpoOptions) -> pl.Expr:
    """The relative rate of drawing a prompt, 1 on average. The pass rate is (k + 1) / (n + 2), so that no prompt has weight 0."""
    rate = (pl.col("k") + 1) / (pl.col("n") + 2)
    weight = {"none": pl.lit(1.0), "variance": rate * (1 - rate), "hard": 1 - rate}[options.weights]
    # Unknown tasks get the mean weight.
    known = pl.when(pl.col("n") > 0).then(weight)
    scaled = (known / known.mean()).fill_null(1.0)
    return (scaled / scaled.mean()).round(6).cast(pl.Float32)


def _ordered(frame: pl.DataFrame, options: GrpoOptions) -> pl.DataFrame:
    if options.order == "shuffled":
        return frame
    rate = pl.col("k") / pl.col("n").clip(1)
    easy = pl.when(pl.col("n") > 0).then(pl.max_horizontal(rate, pl.col("mean_reward").fill_null(0))).otherwise(0.5)
    return frame.sort(easy.round(6), descending=options.order == "easy_first", maintain_order=True)


def _probes(frame: pl.DataFrame, options: GrpoOptions) -> pl.Expr:
    if not options.keep_extremes:
        return pl.lit(False)
    extreme = frame.filter((pl.col("n") > 0) & (pl.col("spread") == 0))
    count = round(options.keep_extremes * extreme.height)
    chosen = shuffled(extreme, options.seed, "task_id").head(count)["task_id"]
    return pl.col("task_id").is_in(chosen.implode())
