"""Reads the rollouts of a snapshot as scalar columns, the input of every builder."""

from collections.abc import Collection

import polars as pl

from ..base.errors import ConfigError, EmptyDataset, EvalLeak
from ..queries.session import sql
from ..queries.verdicts import is_chosen, verdicts_sql
from ..store.lance_store import LanceStore, quote
from ..store.snapshots import require_snapshot
from .options import SourceOptions
from .selection import Selection

COLUMNS = [
    "rollout_id", "slot_id", "attempt", "run_id", "step", "task_id", "prompt_id", "group_id", "sample_index", "episode_id",
    "agent", "branch", "trainable", "environment", "policy_id", "policy_version", "status", "reward", "passed", "n_turns",
    "n_tool_calls", "n_tool_errors", "n_parse_failures", "n_tokens", "n_sampled_tokens", "started_at",
]  # fmt: skip
_OF_TASK = ("split", "category", "difficulty")
_ROWS_AT_ONCE = 131_072
HELD_OUT = ("validation", "test")


def read_candidates(store: LanceStore, snapshot: str, options: SourceOptions, columns: Collection[str]) -> Selection:
    """The rollouts that the options select, the last attempt of each slot, in no particular order.

    The frame has `columns`, with `reward` and `passed` of the scorer that the options name, and `offset`, the position of the row
    in the table at the snapshot. With a condition or a function it has every column that these may use. Without `rollout_id`
    a dropped row is identified by its offset until `name_dropped`.

    Args:
        columns: The columns that the caller uses, of COLUMNS and of the task's `split`, `category` and `difficulty`.

    Raises:
        EvalLeak: A selected rollout belongs to a validation or test task. Such rollouts are never filtered out silently.
        EmptyDataset: The options select no rollout.
        ConfigError: `where` is not a condition over these columns, or the scorer has no scores.
    """
    require_snapshot(store, snapshot)
    wanted = {*columns, "task_id", "reward", "attempt", *(column for column, chosen in _choices(options) if chosen)}
    if options.where is not None or options.function is not None:
        wanted |= {*COLUMNS, *_OF_TASK}
    if options.sql is not None or is_chosen(options.scorer) or options.labels or options.not_labels:
        wanted |= {"rollout_id"}
    frame = to_polars(store, "rollouts", snapshot, [name for name in COLUMNS if name in wanted]).with_row_index(
        "offset"
    )
    retried = frame["attempt"].min() != frame["attempt"].max()
    if retried and "slot_id" not in frame.columns:
        frame = frame.hstack(to_polars(store, "rollouts", snapshot, ["slot_id"]))
    of_task = [name for name in _OF_TASK if name in wanted]
    if of_task:
        frame = frame.join(to_polars(store, "tasks", snapshot, ["task_id", *of_task]), on="task_id", how="left")
    if is_chosen(options.scorer):
        frame = _with_verdicts(frame, store, snapshot, options.scorer)
    frame = _labelled(_chosen(frame, options), store, snapshot, options)
    if frame.is_empty():
        raise EmptyDataset(
            f"No rollout of snapshot {snapshot!r} is selected{'' if options.where is None else f' by where={options.where!r}'}.",
            f"See what the snapshot holds with `rollhouse query reward_by_run --at {snapshot}`.",
        )
    refuse_held_out(frame, store, snapshot)
    frame = frame.with_columns(pl.col("reward").cast(pl.Float64))
    selection = Selection(frame, "rollout_id" if "rollout_id" in wanted else "offset")
    if retried:
        attempt = pl.col("attempt").fill_null(0)
        selection.keep(attempt == attempt.max().over("slot_id"), "a later attempt took its place")
    for label in options.not_labels:
        selection.keep(
            ~pl.col("rollout_id").is_in(list(_with_label(store, snapshot, label))), f"it has the label {label}"
        )
    return selection


def name_dropped(selection: Selection, store: LanceStore, snapshot: str) -> None:
    """Replaces the offsets of dropped rows by rollout ids. The ids are read last, because a snapshot may hold millions of them."""
    if selection.id_column != "offset" or not selection.dropped:
        return
    ids = to_polars(store, "rollouts", snapshot, ["rollout_id"])["rollout_id"]
    selection.dropped = [out.with_columns(id=ids.gather(out["id"])) for out in selection.dropped]


def to_polars(store: LanceStore, table: str, snapshot: str, columns: list[str]) -> pl.DataFrame:
    """Columns of a table at a snapshot."""
    # Lance's own batches are small: larger ones of narrow columns are read in two thirds of the time.
    frame = pl.from_arrow(store.read(table, columns, at=snapshot, batch_rows=_ROWS_AT_ONCE))
    assert isinstance(frame, pl.DataFrame)
    return frame


def held_out_tasks(store: LanceStore, snapshot: str) -> pl.DataFrame:
    """`task_id`, `prompt_id` and `split` of the validation and test tasks."""
    held_out = f"split in ({', '.join(quote(name) for name in HELD_OUT)})"
    found = pl.from_arrow(store.read("tasks", ["task_id", "prompt_id", "split"], held_out, snapshot))
    assert isinstance(found, pl.DataFrame)
    return found


def refuse_held_out(frame: pl.DataFrame, store: LanceStore, snapshot: str) -> None:
    """Raises EvalLeak when the task of a row is of split validation or test. An unknown split passes."""
    held_out = held_out_tasks(store, snapshot)
    if held_out.is_empty():
        return
    leaked = frame.select("task_id", "offset").join(held_out.select("task_id", "split"), on="task_id")
    if leaked.is_empty():
        return
    splits = " and ".join(sorted(leaked["split"].unique()))
    run_ids = to_polars(store, "rollouts", snapshot, ["run_id"])["run_id"]
    runs = sorted(run_ids.gather(leaked["offset"]).unique())
    clean = sorted(set(run_ids.gather(frame["offset"]).unique()) - set(runs))
    advice = f"Select other runs: --run {' --run '.join(clean[:4])}." if clean else "Collect rollouts of train tasks."
    raise EvalLeak(
        f"{leaked.height} of the {frame.height} rollouts selected from snapshot {snapshot!r} belong to {splits} tasks "
        f"(run {', '.join(runs[:3])}{', …' if len(runs) > 3 else ''}), which cannot be trained on.",
        advice,
    )


def _choices(options: SourceOptions) -> list[tuple[str, list[str]]]:
    """(column, allowed values) of each option that selects by value; no values allow all."""
    return [("run_id", options.runs), ("environment", options.environments), ("policy_id", options.policies)]


def _chosen(frame: pl.DataFrame, options: SourceOptions) -> pl.DataFrame:
    for column, wanted in _choices(options):
        if wanted:
            there = frame[column].unique().drop_nulls().sort()
            frame = frame.filter(pl.col(column).is_in(wanted))
            if frame.is_empty():
                some = f"{', '.join(there[:5])}{', …' if len(there) > 5 else ''}" if len(there) else "none"
                raise EmptyDataset(
                    f"No selected rollout has {column} {' or '.join(wanted)}.",
                    f"Known values: {some}.",
                )
    if options.where is None:
        return frame
    try:
        return frame.filter(pl.sql_expr(options.where))
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().split("\n")[0].split("; valid columns")[0]
        raise ConfigError(
            f"where={options.where!r} is not a valid condition: {reason}.",
            f"Write a condition over {', '.join([*COLUMNS, *_OF_TASK])}.",
        ) from error


def _labelled(frame: pl.DataFrame, store: LanceStore, snapshot: str, options: SourceOptions) -> pl.DataFrame:
    for label in options.labels:
        having = _with_label(store, snapshot, label)
        frame = frame.filter(pl.col("rollout_id").is_in(list(having)))
        if frame.is_empty():
            raise EmptyDataset(
                f"No selected rollout of snapshot {snapshot!r} has the label {label!r}.",
                f'List labels with `rollhouse sql "select label, count(*) from current_labels group by all" --at {snapshot}`; labels given after a snapshot are not in it.',
            )
    return frame


def _with_label(store: LanceStore, snapshot: str, label: str) -> set[str]:
    query = "SELECT DISTINCT rollout_id FROM current_labels WHERE label = $label"
    return set(sql(store, query, snapshot, {"label": label})["rollout_id"].to_pylist())


def _with_verdicts(frame: pl.DataFrame, store: LanceStore, snapshot: str, scorer: str) -> pl.DataFrame:
    """Replaces `reward` and `passed` by the latest verdict of `NAME` or `NAME@VERSION`, null where the scorer has none."""
    ours = sql(store, f"SELECT rollout_id, reward, passed FROM ({verdicts_sql(scorer)})", snapshot, scorer=scorer)
    latest = pl.from_arrow(ours)
    assert isinstance(latest, pl.DataFrame)
    return frame.drop("reward", "passed", strict=False).join(latest, on="rollout_id", how="left")
