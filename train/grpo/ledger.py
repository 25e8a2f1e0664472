"""The step's ledger in the house: its plan before it, what became of each rollout after it.

A batch is always read back through its committed plan, so that what was trained once can be trained again, bit for bit.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ...store.errors import TrainingError
from ...store.house import quote
from ...store.ids import hash_id
from .batch import Sample
from .plan import PLANNED_COLUMNS, BatchPlan, Entry, plan_id

if TYPE_CHECKING:
    from ...store.house import House
    from ...store.runs import Run
    from .measures import Outcome

_BATCH_COLUMNS = ["rollout_id", "prompt_id", "tokenizer_hash", "template_hash", "token_ids", "loss_mask", "logprobs"]


def commit_plan(house: "House", plan: BatchPlan) -> None:
    """Writes the plan; a second time changes nothing."""
    house.insert_if_absent("batch_plans", [plan.to_row()])


def commit_outcomes(house: "House", run: "Run", step: int, outcomes: Sequence["Outcome"]) -> None:
    """Writes what became of each rollout that the step trained on."""
    now = datetime.now(UTC)
    rows = [
        {
            "row_id": hash_id(run.run_id, run.incarnation, step, outcome.rollout_id, 0),
            "run_id": run.run_id,
            "incarnation": run.incarnation,
            "step": step,
            "rollout_id": outcome.rollout_id,
            "use_index": 0,
            "trainer_logprobs": outcome.logprobs,
            "ratio_mean": outcome.ratio_mean,
            "clipped_share": outcome.clipped_share,
            "created_at": now,
        }
        for outcome in outcomes
    ]
    house.append("training_outcomes", rows)


def stored_plan(house: "House", run_id: str, step: int) -> BatchPlan | None:
    """The plan that a run committed for a step, None when it has none."""
    rows = house.read("batch_plans", filter=f"row_id = {quote(plan_id(run_id, step))}").to_pylist()
    if not rows:
        return None
    row = rows[0]
    entries = tuple(Entry(**entry) for entry in row["entries"])
    return BatchPlan(run_id, step, row["policy_version"], entries, row["seed"], json.loads(row["settings"]))


def read_rollouts(house: "House", run_id: str, step: int) -> list[dict[str, Any]]:
    """The rollouts of a step, columns PLANNED_COLUMNS."""
    return house.read("rollouts", PLANNED_COLUMNS, f"run_id = {quote(run_id)} and step = {step}").to_pylist()


def read_planned(house: "House", plan: BatchPlan) -> list[dict[str, Any]]:
    """The rollouts that a plan keeps or leaves out, columns PLANNED_COLUMNS and run_id; of other runs where the plan says so."""
    where = _where(plan, [entry.rollout_id for entry in plan.entries])
    return house.read("rollouts", [*PLANNED_COLUMNS, "run_id"], where).to_pylist() if plan.entries else []


def _where(plan: BatchPlan, rollout_ids: Sequence[str]) -> str:
    """Finds rollouts of a plan: the step's own, or of the runs that `rollouts_of` in its settings names (history, replay)."""
    runs = plan.settings.get("rollouts_of")
    own = f"run_id = {quote(plan.run_id)} and step = {plan.step}"
    place = own if runs is None else f"run_id in ({', '.join(map(quote, runs))})"
    return f"{place} and rollout_id in ({', '.join(map(quote, rollout_ids))})"


def read_batch(house: "House", plan: BatchPlan) -> tuple[list[Sample], list[list[int]]]:
    """The samples that a plan trains on, in its order, and its micro-batches as positions among them."""
    kept = [entry for entry in plan.entries if entry.kept]
    if not kept:
        return [], []
    where = _where(plan, [entry.rollout_id for entry in kept])
    rows = {row["rollout_id"]: row for row in house.read("rollouts", _BATCH_COLUMNS, where).to_pylist()}
    missing = [entry.rollout_id for entry in kept if entry.rollout_id not in rows]
    if missing:
        raise TrainingError(
            f"Step {plan.step} of run {plan.run_id} trains on rollout {missing[0]}, which is not in the house.",
            "`rollhouse check` lists what else is missing; the step cannot be run without it.",
        )
    prompts = prompt_tokens(house, list(rows.values()))
    samples = [_sample(rows[entry.rollout_id], prompts, entry) for entry in kept]
    micro_batches: list[list[int]] = [[] for _ in range(max(entry.micro_batch or 0 for entry in kept) + 1)]
    for position, entry in enumerate(kept):
        micro_batches[entry.micro_batch or 0].append(position)
    return samples, micro_batches


def _sample(row: Mapping[str, Any], prompts: Mapping[str, list[int]], entry: Entry) -> Sample:
    return Sample(
        rollout_id=row["rollout_id"],
        prompt_ids=prompts[prompt_key(row)],
        token_ids=row["token_ids"],
        loss_mask=row["loss_mask"],
        engine_logprobs=row["logprobs"],
        advantage=entry.advantage or 0.0,
    )


def prompt_tokens(house: "House", rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """prompt_key → the rendered prompt's tokens, of rollout rows."""
    keys = ", ".join(quote(key) for key in {prompt_key(row) for row in rows})
    found = house.read("prompt_tokens", ["row_id", "token_ids"], f"row_id in ({keys})").to_pylist()
    return {row["row_id"]: row["token_ids"] for row in found}


def prompt_key(row: Mapping[str, Any]) -> str:
    """Row of `prompt_tokens` whose tokens a rollout's follow."""
    return hash_id(row["prompt_id"], row["tokenizer_hash"], row["template_hash"])
