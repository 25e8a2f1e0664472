"""Micro-batches of a planned step, split anew: a step that ran out of memory is taken with a lower policy.train_mb_tokens.

The plan stays as it is in the store. The other split is an event `note` of the run, so that whoever takes the step again splits it like that.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...store.lance_store import quote
from .learner.batch import split_micro_batches
from .plan import BatchPlan

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from ...store.runs import Run


def fit_to_memory(run: "Run", plan: BatchPlan, rollouts: Sequence[Mapping[str, Any]], token_budget: int) -> BatchPlan:
    """The plan, in smaller micro-batches where it was made for larger ones and its step was never taken; that is on record when this returns.

    Args:
        rollouts: The plan's, columns PLANNED_COLUMNS.
        token_budget: Padded tokens of a micro-batch, of now.
    """
    options = plan.settings["plan"]
    if token_budget >= options["token_budget"] or _taken(run, plan.step):
        return plan
    rows = {row["rollout_id"]: row for row in rollouts}
    kept = [rows[entry.rollout_id] for entry in plan.entries if entry.kept and entry.rollout_id in rows]
    if not kept or len(kept) < sum(entry.kept for entry in plan.entries):
        return plan  # whoever reads its batch names what is missing
    lengths = [row["n_prompt_tokens"] + row["n_tokens"] for row in kept]
    groups = [row["group_id"] for row in kept] if options["keep_groups"] else None
    batches = split_micro_batches(lengths, token_budget, groups)
    split = [[kept[position]["rollout_id"] for position in batch] for batch in batches]
    run.note({"split": {"step": plan.step, "token_budget": token_budget, "micro_batches": split}})
    run.upkeep.wrote("run_events")
    return _split(plan, token_budget, split)


def as_split(store: "LanceStore", plan: BatchPlan) -> BatchPlan:
    """The plan of a stored row as it was, or is to be, trained on: with the last split on record."""
    where = f"run_id = {quote(plan.run_id)} and event = 'note'"
    rows = store.read("run_events", ["incarnation", "sequence", "payload"], where).to_pylist()
    rows.sort(key=lambda row: (row["incarnation"], row["sequence"]))
    notes = [note["split"] for row in rows if "split" in (note := json.loads(row["payload"]))]
    mine = [note for note in notes if note["step"] == plan.step]
    return _split(plan, mine[-1]["token_budget"], mine[-1]["micro_batches"]) if mine else plan


def _split(plan: BatchPlan, token_budget: int, micro_batches: Sequence[Sequence[str]]) -> BatchPlan:
    entries = {entry.rollout_id: entry for entry in plan.entries if entry.kept}
    trained = [
        replace(entries[rollout_id], micro_batch=number)
        for number, batch in enumerate(micro_batches)
        for rollout_id in batch
    ]
    left_out = [entry for entry in plan.entries if not entry.kept]
    settings = plan.settings | {"plan": plan.settings["plan"] | {"token_budget": token_budget}}
    return replace(plan, entries=tuple(trained + left_out), settings=settings)


def _taken(run: "Run", step: int) -> bool:
    where = f"run_id = {quote(run.run_id)} and step = {step}"
    return bool(run.store.dataset("training_outcomes").count_rows(where))
