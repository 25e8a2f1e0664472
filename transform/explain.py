"""Why a rollout or task is in a version or not, and how two versions differ."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from ..base.errors import ConfigError, StoreNotFound
from ..store.lance_store import LanceStore, quote
from .versions import DatasetVersion

_KEYS = {"sft": ["rollout_id"], "dpo": ["chosen_id", "rejected_id"], "grpo": ["task_id"]}


def why(store: LanceStore, dataset: DatasetVersion, id: str) -> list[dict[str, Any]]:
    """Why a rollout or task is in a version, or why not.

    A prompt set holds tasks: there, a rollout that counted is in or out with its task.

    Args:
        id: A rollout_id or task_id, or an unambiguous prefix of one.

    Returns:
        One entry per row that holds it, else one per reason: id, in_dataset, row, role, weight, reason.

    Raises:
        StoreNotFound: The snapshot does not hold the id.
        ConfigError: Several ids begin with the prefix.
    """
    id, task = _known(store, dataset, id)
    if dataset.kind == "grpo" and task and not dataset.drops["id"].is_in([id]).any():
        return [entry | {"id": id, "reason": f"its task: {entry['reason']}"} for entry in why(store, dataset, task)]
    mine = dataset.references.filter((pl.col("rollout_id") == id) | (pl.col("task_id") == id))
    notes = _flags(dataset, id)
    if mine.height:
        return [_entry(id, True, "; ".join(["chosen", *notes]), row) for row in mine.iter_rows(named=True)]
    left_out = dataset.drops.filter(pl.col("id") == id)["reason"].to_list() or _reasons_of_task(store, dataset, id)
    left_out = left_out or ["not among the runs, environments and policies that the recipe names"]
    return [_entry(id, False, "; ".join([reason, *notes])) for reason in left_out]


def diff(left: DatasetVersion, right: DatasetVersion) -> dict[str, Any]:
    """How two versions of one kind differ.

    Returns:
        recipe ((option, left, right) where they differ), snapshots, in_both, only_left, only_right (numbers of rows), reordered
        and reweighted (rows of both versions with another relative position, or another weight), and reasons: why a version
        lacks the rows that only the other one has, (side, reason, n).

    Raises:
        ConfigError: The two versions are of different kinds.
    """
    if left.kind != right.kind:
        raise ConfigError(
            f"{left.label} is of kind {left.kind} and {right.label} is of kind {right.kind}.",
            "Compare two versions of the same kind.",
        )
    key = _KEYS[left.kind]
    ours, theirs = _rows(left), _rows(right)
    both = ours.join(theirs, on=key, suffix="_right").sort("row")
    return {
        "recipe": _recipe_changes(left, right),
        "snapshots": [left.snapshot, right.snapshot],
        "in_both": both.height,
        "only_left": ours.height - both.height,
        "only_right": theirs.height - both.height,
        "reordered": both.select((pl.col("row").rank("ordinal") != pl.col("row_right").rank("ordinal")).sum()).item(),
        "reweighted": both.select((pl.col("weight") != pl.col("weight_right")).sum()).item(),
        "reasons": [*_reasons("only_left", ours, theirs, right, key), *_reasons("only_right", theirs, ours, left, key)],
    }


def diff_rows(left: DatasetVersion, right: DatasetVersion) -> list[dict[str, Any]]:
    """One entry per row that only one of the versions has: only_in (a label) and the ids of the row."""
    key = _KEYS[left.kind]
    ours, theirs = _rows(left), _rows(right)
    only = [
        mine.join(other, on=key, how="anti").sort("row").select(pl.lit(dataset.label).alias("only_in"), *key)
        for mine, other, dataset in ((ours, theirs, left), (theirs, ours, right))
    ]
    return pl.concat(only).to_dicts()


def _rows(dataset: DatasetVersion) -> pl.DataFrame:
    """One row per dataset row: the ids that identify it, `row` and `weight`."""
    references = dataset.references
    if dataset.kind != "dpo":
        return references
    sides = {role: references.filter(pl.col("role") == role) for role in ("chosen", "rejected")}
    chosen = sides["chosen"].select("row", "weight", chosen_id="rollout_id")
    return chosen.join(sides["rejected"].select("row", rejected_id="rollout_id"), on="row")


def _recipe_changes(left: DatasetVersion, right: DatasetVersion) -> list[dict[str, Any]]:
    names = dict.fromkeys([*left.recipe, *right.recipe])
    values = [(name, left.recipe.get(name), right.recipe.get(name)) for name in names]
    return [{"option": name, "left": mine, "right": other} for name, mine, other in values if mine != other]


def _reasons(
    side: str, mine: pl.DataFrame, other: pl.DataFrame, without: DatasetVersion, key: Sequence[str]
) -> list[dict]:
    """Why one version lacks the rows that only the other one has."""
    only = mine.join(other, on=key, how="anti")
    ids = pl.concat([only.select(id=name) for name in key]).unique()
    used = pl.concat([without.references.select(id=name) for name in ("rollout_id", "task_id")]).drop_nulls().unique()
    explained = ids.join(without.drops, on="id", how="left").join(used.with_columns(used=True), on="id", how="left")
    if without.kind == "dpo":
        explained = explained.with_columns(
            pl.when("used").then(pl.lit("in another pair")).otherwise("reason").alias("reason")
        )
    counted = (
        explained.group_by(pl.col("reason").fill_null("not an input"))
        .len("n")
        .sort("n", "reason", descending=[True, False])
    )
    return [{"side": side, **row} for row in counted.to_dicts()]


def _entry(id: str, inside: bool, reason: str, row: dict[str, Any] | None = None) -> dict[str, Any]:
    row = row or {}
    return {"id": id, "in_dataset": inside, "row": row.get("row"), "role": row.get("role"), "weight": row.get("weight"), "reason": reason}  # fmt: skip


def _flags(dataset: DatasetVersion, id: str) -> list[str]:
    tasks = dataset.references.filter(pl.col("rollout_id") == id)["task_id"].to_list()
    mine = dataset.flags.filter(pl.col("id").is_in([id, *tasks]))
    return [f"{row['method']} of {row['reference']} ({row['score']:.2f})" for row in mine.iter_rows(named=True)]


def _reasons_of_task(store: LanceStore, dataset: DatasetVersion, task: str) -> list[str]:
    """The reasons of a task's rollouts, each with the number of rollouts."""
    mine = store.read("rollouts", ["rollout_id"], f"task_id = {quote(task)}", dataset.snapshot)["rollout_id"]
    counts = dataset.drops.filter(pl.col("id").is_in(mine.to_pylist())).group_by("reason").len("n")
    rows = counts.sort("n", "reason", descending=[True, False]).iter_rows()
    return [f"{reason} ({count} rollouts)" for reason, count in rows]


def _known(store: LanceStore, dataset: DatasetVersion, id: str) -> tuple[str, str | None]:
    """The complete id, and for a rollout the id of its task."""
    whole, begins = f"= {quote(id)}", f"like {quote(id + '%')}"
    for how in (whole, begins) if id.isalnum() else (whole,):
        rollouts = store.read("rollouts", ["rollout_id", "task_id"], f"rollout_id {how}", dataset.snapshot)
        tasks = store.read("tasks", ["task_id"], f"task_id {how}", dataset.snapshot)
        found = [*rollouts.to_pylist(), *tasks.to_pylist()]
        if len(found) > 1:
            raise ConfigError(
                f"{len(found)} rollouts and tasks have an id that begins with {id!r}.", "Give more digits."
            )
        if found and "rollout_id" in found[0]:
            return found[0]["rollout_id"], found[0]["task_id"]
        if found:
            return found[0]["task_id"], None
    raise StoreNotFound(
        f"Snapshot {dataset.snapshot!r} of {dataset.label} holds no rollout or task {id!r}.",
        "Find its id with `rollhouse sql` over final_rollouts.",
    )
