"""The rules for demonstrations: which rollouts are worth imitating."""

import math

import numpy as np
import polars as pl

from .options import SftOptions
from .order import shuffled
from .selection import Selection, is_binary, keep_verdicts, status_reason

_CHOSEN_BY = (
    "offset", "rollout_id", "task_id", "prompt_id", "episode_id", "branch", "category", "reward", "n_turns", "n_tool_errors",
    "n_sampled_tokens",
)  # fmt: skip
_FILTERED_BY = (
    "agent", "environment", "trainable", "status", "passed", "n_parse_failures", "n_tokens",
)  # fmt: skip


def demo_columns(options: SftOptions) -> set[str]:
    """The columns of candidates that these rules use. The category is left out unless needed, because it takes a join."""
    by_category = options.max_per_category is not None or options.max_category_ratio is not None
    return {*_CHOSEN_BY, *_FILTERED_BY} - {"offset"} - (set() if by_category else {"category"})


def demo_digests(options: SftOptions) -> set[str]:
    """The digests that these rules use, see `with_digests`."""
    digests = {
        "response": options.dedupe,
        "path": options.per_task_cap is not None and options.prefer == "diverse",
        "called": options.require_tool_schemas,
        "ends_in_text": options.require_final_text,
    }
    return {"length", *(name for name, wanted in digests.items() if wanted)}


def filter_demos(selection: Selection, options: SftOptions) -> float | None:
    """Keeps the rollouts that pass every filter on scalar columns, and returns the least reward that applied (None for none)."""
    selection.keep(pl.col("trainable").fill_null(True), "not the agent being trained")
    selection.keep(pl.col("status") == "completed", status_reason())
    floor = _filter_rewards(selection, options)
    if not options.allow_parse_failures:
        selection.keep(pl.col("n_parse_failures").fill_null(0) == 0, "a tool call did not parse")
    if options.max_tool_errors is not None:
        errors = pl.col("n_tool_errors").fill_null(0)
        selection.keep(errors <= options.max_tool_errors, f"more than {options.max_tool_errors} tool errors")
    for column, least, most, unit in (
        ("n_turns", options.min_turns, options.max_turns, "turns"),
        ("n_tokens", options.min_tokens, options.max_tokens, "tokens"),
    ):
        if least is not None:
            selection.keep(pl.col(column).fill_null(least) >= least, f"fewer than {least} {unit}")
        if most is not None:
            selection.keep(pl.col(column).fill_null(0) <= most, f"more than {most} {unit}")
    if options.branches == "main":
        selection.keep(pl.col("branch").fill_null(0) == 0, "another branch of its episode")
    selection.narrow(*_CHOSEN_BY)
    return floor


def _filter_rewards(selection: Selection, options: SftOptions) -> float | None:
    keep_verdicts(selection, required=options.require_reward)
    if options.require_passed:
        selection.keep(pl.col("passed"), "not solved")
    quantile = options.min_reward_quantile
    if quantile is not None:
        bound = pl.col("reward").quantile(quantile, "lower").over("environment")
        selection.keep(pl.col("reward") >= bound, f"reward below its environment's {quantile:g} quantile")
    floor = options.min_reward
    if floor is None and quantile is None and options.require_reward:
        floor = 1.0 if is_binary(selection.frame["reward"]) else 0.9
    for environment, least in sorted(options.min_reward_of.items()):
        other = pl.col("environment") != environment
        selection.keep(other | (pl.col("reward") >= least), f"reward below {least:g}")
    if floor is not None:
        enough = pl.col("reward") >= floor
        if options.min_reward_of:
            enough |= pl.col("environment").is_in(list(options.min_reward_of))
        selection.keep(enough, f"reward below {floor:g}")
    return floor


def choose_demos(selection: Selection, options: SftOptions) -> pl.DataFrame:
    """The demonstrations in training order, after removing duplicates and applying the caps. The frame has the columns of `demo_digests`."""
    if options.require_final_text:
        selection.keep(pl.col("ends_in_text"), "no text at the end")
    selection.narrow(*_CHOSEN_BY, "response", "path", "length")
    # Of equal responses the one with tokens is kept, because training can use its sampled tokens as they are.
    no_tokens = pl.col("n_sampled_tokens").is_null()
    first = {"diverse": [], "reward": [-pl.col("reward")], "short": [pl.col("length")]}[options.prefer]
    selection.frame = selection.frame.sort(*first, "n_turns", "length", no_tokens, "rollout_id", nulls_last=True)
    if options.dedupe:
        distinct = pl.struct(pl.col("prompt_id").hash(), "response").is_first_distinct()
        selection.keep(distinct, "same response as another rollout")
    _cap_recoveries(selection, options)
    if options.per_task_cap is not None:
        _cap_tasks(selection, options.per_task_cap, diverse=options.prefer == "diverse")
    selection.frame = shuffled(selection.frame, options.seed, "rollout_id")
    cap_categories(selection, options.max_per_category)
    if options.max_category_ratio is not None:
        smallest = selection.frame.group_by("category").len()["len"].min()
        cap_categories(selection, math.floor(options.max_category_ratio * int(smallest or 1)))  # type: ignore
    if options.max_rows is not None:
        selection.keep(pl.int_range(pl.len()) < options.max_rows, f"over {options.max_rows} rows")
    return selection.frame


def demo_references(demos: pl.DataFrame) -> pl.DataFrame:
    """The references of a version: one demonstration per row."""
    number = pl.int_range(pl.len())
    return demos.select("rollout_id", "task_id", "branch", weight=1.0, role=pl.lit("demo"), row=number)


def cap_categories(selection: Selection, most: int | None) -> None:
    """Keeps the first `most` rows of each category, in the present order; None keeps all."""
    if most is not None:
        place = pl.int_range(pl.len()).over("category")
        selection.keep(place < most, f"over {most} of its category")


def _cap_recoveries(selection: Selection, options: SftOptions) -> None:
    share = options.max_recovery_share
    if share is None or share == 1:
        return
    recovers = pl.col("n_tool_errors").fill_null(0) > 0
    clean = selection.frame.select((~recovers).sum()).item()
    # One is kept even when every demonstration has an error, so that the set is not empty.
    most = max(math.floor(share / (1 - share) * clean), 0 if clean else 1)
    selection.keep(~recovers | (recovers.cum_sum() <= most), f"over {share:.0%} of demonstrations with a tool error")


def _cap_tasks(selection: Selection, cap: int, diverse: bool) -> None:
    """Keeps the first `cap` episodes of each task. With `diverse`, a tool path is repeated only after all other paths."""
    number = pl.int_range(pl.len())
    # 64-bit hashes are compared faster than ids, and sorted without the rest of the row.
    rows = selection.frame.select(
        *(["path"] if diverse else []), number=number, task=pl.col("task_id").hash(), episode=_episode().hash()
    )
    if diverse:
        rows = rows.with_columns(repeat=number.over("task", "path")).sort("repeat", maintain_order=True)
    # The branches of an episode are kept or dropped together.
    rows = rows.with_columns(opens=pl.col("episode").is_first_distinct())
    rows = rows.with_columns(place=pl.col("opens").cum_sum().over("task"))
    if not rows["opens"].all():
        rows = rows.with_columns(pl.col("place").first().over("episode"))
    within = np.zeros(rows.height, bool)
    within[rows.filter(pl.col("place") <= cap)["number"].to_numpy()] = True
    selection.keep(pl.Series(within), f"over {cap} a task")


def _episode() -> pl.Expr:
    return pl.coalesce("episode_id", "rollout_id")
