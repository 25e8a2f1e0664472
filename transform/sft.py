"""Demonstrations: which rollouts are worth imitating."""

import polars as pl

from .options import SftOptions
from .order import shuffled
from .selection import Selection, is_binary, status_reason, valid_reward


def filter_demos(selection: Selection, options: SftOptions) -> float:
    """Leaves the rollouts that pass every filter on scalar columns, and returns the reward floor that was used."""
    selection.keep(pl.col("trainable").fill_null(True), "not the agent being trained")
    selection.keep(pl.col("status") == "completed", status_reason())
    selection.keep(valid_reward(), "no reward")
    floor = options.min_reward
    if floor is None:
        floor = 1.0 if is_binary(selection.frame["reward"]) else 0.9
    selection.keep(pl.col("reward") >= floor, f"reward below {floor:g}")
    if not options.allow_parse_failures:
        selection.keep(pl.col("n_parse_failures").fill_null(0) == 0, "a tool call did not parse")
    if options.max_tool_errors is not None:
        errors = pl.col("n_tool_errors").fill_null(0)
        selection.keep(errors <= options.max_tool_errors, f"more than {options.max_tool_errors} tool errors")
    if options.max_turns is not None:
        selection.keep(pl.col("n_turns").fill_null(0) <= options.max_turns, f"more than {options.max_turns} turns")
    if options.max_tokens is not None:
        tokens = pl.col("n_tokens").fill_null(0)
        selection.keep(tokens <= options.max_tokens, f"more than {options.max_tokens} tokens")
    return floor


def choose_demos(selection: Selection, options: SftOptions) -> pl.DataFrame:
    """The demonstrations in training order, after duplicates and the caps.

    Within a task, different tool paths come first, then fewer model calls, then shorter responses. The frame has the
    digests of `with_digests`.
    """
    # Of equal responses the one with tokens stays: these are trained on as they were sampled.
    no_tokens = pl.col("n_sampled_tokens").is_null()
    selection.frame = selection.frame.sort("n_turns", "length", no_tokens, "rollout_id", nulls_last=True)
    if options.dedupe:
        first = pl.struct("prompt_id", "response").is_first_distinct()
        selection.keep(first, "same response as another rollout")
    if options.per_task_cap is not None:
        repeat = pl.int_range(pl.len()).over("task_id", "path").alias("repeat")
        selection.frame = selection.frame.with_columns(repeat).sort("repeat", maintain_order=True)
        place = pl.int_range(pl.len()).over("task_id")
        selection.keep(place < options.per_task_cap, f"over {options.per_task_cap} a task")
    selection.frame = shuffled(selection.frame, options.seed, "rollout_id")
    if options.max_rows is not None:
        selection.keep(pl.int_range(pl.len()) < options.max_rows, f"over {options.max_rows} rows")
    return selection.frame


def demo_references(demos: pl.DataFrame) -> list[dict]:
    """The references of a version: one demonstration a row."""
    return [
        {"rollout_id": row[0], "task_id": row[1], "branch": row[2], "weight": 1.0, "role": "demo", "row": number}
        for number, row in enumerate(demos.select("rollout_id", "task_id", "branch").iter_rows())
    ]
