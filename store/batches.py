"""What the steps of a training run were planned to train on, rollout by rollout."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute

from .lance_store import LanceStore, quote

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

_ROLLOUT = ["rollout_id", "run_id", "task_id", "policy_id", "policy_version", "policy_version_last", "engine"]
_STEPS_SHOWN = 20


def planned_rollouts(
    store: LanceStore, run_id: str, replay_of: str | None = None, up_to: int | None = None
) -> pa.Table:
    """One row for each rollout that a step of a run used or left out, in the order of steps and plans. Empty for a run without plans.

    Columns: `step`, `rollout_id`, `group_id`, `reward` (as compared: shaped), `advantage` (null when it took no part), `kept`, `reason`, `staleness`, and of
    the rollout its `run_id`, `task_id`, `policy_id`, `policy_version`, `policy_version_last`, `engine`, null when it is not in the store.
    Staleness is in optimizer steps at its first token, null for a rollout of another run.

    Args:
        replay_of: The run whose batches were replayed; its rollouts count as the run's own.
        up_to: The last step; None is all.
    """
    where = f"run_id = {quote(run_id)}" + ("" if up_to is None else f" and step <= {up_to}")
    plans = store.read("batch_plans", ["step", "policy_version", "entries", "settings"], where).sort_by("step")
    entries = plans["entries"].combine_chunks()
    positions, flat = pc.list_parent_indices(entries), entries.flatten()
    names = ["rollout_id", "group_id", "reward", "advantage", "kept", "reason"]
    table = pa.table(
        {"step": plans["step"].take(positions), "trained_version": plans["policy_version"].take(positions)}
        | {name: pc.struct_field(flat, name) for name in names}
    )
    sources = {run for text in plans["settings"].to_pylist() for run in json.loads(text or "{}").get("rollouts_of", ())}
    runs = ", ".join(map(quote, sorted(sources | {run_id})))
    rollouts = store.read("rollouts", _ROLLOUT, f"run_id in ({runs})")
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    table = table.join(rollouts, "rollout_id", join_type="left outer").sort_by("row").drop_columns(["row"])
    own = pc.is_in(table["run_id"], value_set=pa.array([run_id, *([replay_of] if replay_of else [])]))
    age = pc.if_else(own, pc.subtract(table["trained_version"], table["policy_version"]), None)
    return table.append_column("staleness", age).drop_columns(["trained_version"])


def step_ranges(planned: pa.Table) -> list[tuple[int, int]]:
    """(first, last) of what is shown in one line: a step each, or as many together as make a score of lines."""
    steps = sorted(set(planned["step"].to_pylist()))
    together = -(-len(steps) // _STEPS_SHOWN) or 1
    return [(steps[i], steps[min(i + together, len(steps)) - 1]) for i in range(0, len(steps), together)]


def summed(planned: pa.Table) -> str:
    """Some rows of planned_rollouts in a line."""
    kept = planned.filter(planned["kept"])
    said = [f"{kept.num_rows} of {planned.num_rows} rollouts trained on"]
    if kept.num_rows:
        said.append(f"advantages {_span(kept['advantage'], '.2f')}")
    if kept["staleness"].null_count < kept.num_rows:
        said.append(f"staleness {_span(kept['staleness'], 'd')}")
    counts = pc.value_counts(planned.filter(pc.invert(planned["kept"]))["reason"]).to_pylist()
    if counts:
        ordered = sorted(counts, key=lambda row: (-row["counts"], row["values"] or ""))
        said.append("left out: " + ", ".join(f"{row['values']} {row['counts']}" for row in ordered))
    return ", ".join(said)


def _span(column: Any, form: str) -> str:
    ends = pc.min_max(column).as_py()
    low, high = format(ends["min"], form), format(ends["max"], form)
    return low if low == high else f"{low} to {high}"
