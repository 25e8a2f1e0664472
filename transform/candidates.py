"""The rollouts of a snapshot as scalar columns: what every builder starts from."""

from collections.abc import Sequence

import polars as pl

from ..queries.session import sql
from ..queries.verdicts import is_chosen, verdicts_sql
from ..store.errors import ConfigError, EmptyDataset, EvalLeak
from ..store.house import House
from .options import SourceOptions
from .selection import Selection

COLUMNS = [
    "rollout_id", "slot_id", "attempt", "run_id", "step", "task_id", "prompt_id", "group_id", "sample_index", "episode_id",
    "agent", "branch", "trainable", "environment", "policy_id", "policy_version", "status", "reward", "passed", "n_turns",
    "n_tool_calls", "n_tool_errors", "n_parse_failures", "n_tokens", "n_sampled_tokens", "started_at",
]  # fmt: skip
# What the rules look at; the rest is for `where` and functions.
_FOR_RULES = [
    "rollout_id", "run_id", "task_id", "prompt_id", "episode_id", "agent", "branch", "trainable", "environment",
    "policy_id", "policy_version", "status", "reward", "passed", "n_turns", "n_tool_calls", "n_tool_errors",
    "n_parse_failures", "n_tokens", "n_sampled_tokens", "started_at",
]  # fmt: skip
HELD_OUT = ("validation", "test")


def read_candidates(house: House, snapshot: str, options: SourceOptions, columns: Sequence[str] = ()) -> Selection:
    """The rollouts the options choose, the last attempt of each slot, in no particular order.

    The frame has COLUMNS (without `where` and function only `columns`, or those the rules look at) with `reward` and `passed`
    of the scorer the options name, `split`, `category` and `difficulty` of the task, and `offset`, the row's position in the
    table at the snapshot.

    Raises:
        EvalLeak: A chosen rollout belongs to a validation or test task. It is never filtered out silently.
        EmptyDataset: The options choose nothing.
        ConfigError: `where` is not a condition over these columns, or the scorer never scored anything.
    """
    wanted = COLUMNS if options.where is not None or options.function is not None else list(columns or _FOR_RULES)
    retried = to_polars(house, "rollouts", snapshot, ["attempt"])["attempt"].n_unique() > 1
    wanted: list[str] = list(dict.fromkeys([*wanted, *(("slot_id", "attempt") if retried else ())]))
    frame = to_polars(house, "rollouts", snapshot, wanted).with_row_index("offset")
    tasks = to_polars(house, "tasks", snapshot, ["task_id", "split", "category", "difficulty"])
    frame = frame.join(tasks, on="task_id", how="left")
    if is_chosen(options.scorer):
        frame = _with_verdicts(frame, house, snapshot, options.scorer)
    frame = _chosen(frame, options)
    if frame.is_empty():
        raise EmptyDataset(
            f"No rollout of snapshot {snapshot!r} matches the recipe's runs, environments, policies and `where`.",
            "`rollhouse query reward_by_run --at SNAPSHOT` shows what the snapshot holds.",
        )
    refuse_held_out(frame, snapshot)
    selection = Selection(frame.with_columns(pl.col("reward").cast(pl.Float64)))
    if retried:
        last = pl.col("attempt") == pl.col("attempt").max().over("slot_id")
        selection.keep(last, "a later attempt took its place")
    return selection


def to_polars(house: House, table: str, snapshot: str, columns: list[str]) -> pl.DataFrame:
    """Columns of a table at a snapshot."""
    frame = pl.from_arrow(house.read(table, columns, at=snapshot))
    assert isinstance(frame, pl.DataFrame)
    return frame


def refuse_held_out(frame: pl.DataFrame, snapshot: str) -> None:
    """Raises EvalLeak when a row's `split` is validation or test; an unknown split passes."""
    leaked = frame.filter(pl.col("split").is_in(HELD_OUT))
    if leaked.is_empty():
        return
    splits = " and ".join(sorted(leaked["split"].unique()))
    runs = sorted(leaked["run_id"].unique())
    clean = sorted(set(frame["run_id"].unique()) - set(runs))
    advice = (
        f"Name runs without them: --run {' --run '.join(clean[:4])}." if clean else "Collect rollouts of train tasks."
    )
    raise EvalLeak(
        f"{leaked.height} of the {frame.height} rollouts chosen from snapshot {snapshot!r} belong to {splits} tasks "
        f"(run {', '.join(runs[:3])}{', …' if len(runs) > 3 else ''}), which never enter a training set.",
        advice,
    )


def _chosen(frame: pl.DataFrame, options: SourceOptions) -> pl.DataFrame:
    for column, wanted in (
        ("run_id", options.runs),
        ("environment", options.environments),
        ("policy_id", options.policies),
    ):
        if wanted:
            frame = frame.filter(pl.col(column).is_in(wanted))
    if options.where is None:
        return frame
    try:
        return frame.filter(pl.sql_expr(options.where))
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"where={options.where!r} cannot be read: {reason}.",
            f"Write a condition over {', '.join([*COLUMNS, 'split', 'category', 'difficulty'])}.",
        ) from error


def _with_verdicts(frame: pl.DataFrame, house: House, snapshot: str, scorer: str) -> pl.DataFrame:
    """`reward` and `passed` replaced by the latest verdict of `NAME` or `NAME@VERSION`, null where it has none."""
    ours = sql(house, f"SELECT rollout_id, reward, passed FROM ({verdicts_sql(scorer)})", snapshot, scorer=scorer)
    latest = pl.from_arrow(ours)
    assert isinstance(latest, pl.DataFrame)
    return frame.drop("reward", "passed").join(latest, on="rollout_id", how="left")
