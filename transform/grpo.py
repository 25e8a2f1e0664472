"""Prompt sets: the tasks on which groups of rollouts differ, because only those teach."""

import polars as pl

from .options import GrpoOptions
from .order import shuffled
from .selection import Selection, status_reason, valid_reward

_Z95 = 1.959963984540054


def task_statistics(selection: Selection) -> Selection:
    """From rollouts to tasks: `n` scored rollouts, `k` solved and the mean reward of each.

    Infrastructure failures and rollouts without a verdict say nothing about a task and are left out first; a truncated
    rollout counts as the failure it is. A rollout is solved when its verdict says so, or, without that, at reward 1.
    """
    rollouts = selection
    rollouts.keep(pl.col("trainable").fill_null(True), "not the agent being trained")
    rollouts.keep(pl.col("status").is_in(["completed", "truncated"]), status_reason())
    rollouts.keep(valid_reward(), "no reward")
    solved = pl.col("passed").fill_null(pl.col("reward") >= 1.0)
    tasks = (
        rollouts.frame.group_by("task_id")
        .agg(n=pl.len(), k=solved.sum(), mean_reward=pl.col("reward").mean(), spread=pl.col("reward").std(ddof=0))
        .sort("task_id")
    )
    return Selection(tasks, "task_id", dropped=rollouts.dropped)


def choose_prompts(tasks: Selection, options: GrpoOptions) -> pl.DataFrame:
    """The tasks of the set, in training order."""
    tasks.keep(pl.col("n") >= options.min_samples, f"fewer than {options.min_samples} rollouts")
    probe = _probes(tasks.frame, options)
    tasks.keep((pl.col("k") < pl.col("n")) | (pl.col("spread") > 0) | probe, "always solved")
    tasks.keep((pl.col("k") > 0) | (pl.col("spread") > 0) | probe, "never solved")
    if options.pass_band is not None:
        low, high = options.pass_band
        tasks.keep((wilson(-1) <= high) & (wilson(+1) >= low) | probe, f"pass rate outside {low:g} to {high:g}")
    tasks.frame = shuffled(tasks.frame, options.seed, "task_id")
    if options.max_prompts is not None:
        tasks.keep(pl.int_range(pl.len()) < options.max_prompts, f"over {options.max_prompts} prompts")
    return tasks.frame


def wilson(side: int) -> pl.Expr:
    """One end of the 95 % Wilson score interval of k successes in n (Wilson 1927): side -1 the lower, +1 the upper."""
    n, p = pl.col("n"), pl.col("k") / pl.col("n")
    centre = p + _Z95**2 / (2 * n)
    spread = _Z95 * (p * (1 - p) / n + _Z95**2 / (4 * n**2)).sqrt()
    return (centre + side * spread) / (1 + _Z95**2 / n)


def prompt_references(prompts: pl.DataFrame) -> list[dict]:
    """The references of a version: one task a row."""
    return [
        {"rollout_id": None, "task_id": task, "branch": None, "weight": 1.0, "role": "prompt", "row": number}
        for number, task in enumerate(prompts["task_id"])
    ]


def _probes(frame: pl.DataFrame, options: GrpoOptions) -> pl.Expr:
    extreme = frame.filter(pl.col("spread") == 0)
    count = round(options.keep_extremes * extreme.height)
    chosen = shuffled(extreme, options.seed, "task_id").head(count)["task_id"]
    return pl.col("task_id").is_in(chosen.to_list())
