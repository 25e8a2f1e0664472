"""The run's ledger in the store: prompts before they are sampled, a step's plan before it, the outcome of each rollout after it.

A batch is always read through its committed plan, so that it can be trained on again, bit for bit.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute

from ...base.errors import TrainingError
from ...store.appending import append_rows, insert_if_absent
from ...store.ids import hash_id
from ...store.lance_store import quote
from ...store.tables import TABLES
from .learner.batch import TrainSample, split_micro_batches
from .plan import BESIDE_ENTRIES, PLANNED_COLUMNS, BatchPlan, PlanEntry, plan_id

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from ...store.runs import Run
    from .learner.update import Outcome

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

BATCH_COLUMNS = [
    "rollout_id",
    "episode_id",
    "prompt_id",
    "tokenizer_hash",
    "template_hash",
    "token_ids",
    "loss_mask",
    "logprobs",
    "routed_experts",
]
_STEP_COLUMNS = list(dict.fromkeys([*PLANNED_COLUMNS, "policy_version_last", "version_spans", *BATCH_COLUMNS]))
_IN_FLOAT32 = ("reward", "turn_rewards", "logprobs")


def record_issued(run: "Run", step: int, round_: int, task_ids: Sequence[str], version: int) -> None:
    """Notes which prompts a step is to sample, before it does: an event `note` of the run with the payload `issued`.

    Args:
        round_: 0 for the step's own prompts; later ones replace groups without spread.
        version: Of the weights that it begins with.
    """
    run.note({"issued": {"step": step, "round": round_, "policy_version": version, "task_ids": list(task_ids)}})
    run.upkeep.wrote("run_events")


def issued_before(store: "LanceStore", run_id: str) -> dict[tuple[int, int], list[str]]:
    """(step, round) → task ids, of all that a run has on record."""
    where = f"run_id = {quote(run_id)} and event = 'note'"
    notes = [json.loads(row["payload"]) for row in store.read("run_events", ["payload"], where).to_pylist()]
    found = [note["issued"] for note in notes if "issued" in note]
    return {(note["step"], note["round"]): note["task_ids"] for note in found}


def last_planned(store: "LanceStore", run_id: str) -> int:
    """The last step that a run has a plan of, 0 for none."""
    steps = store.read("batch_plans", ["step"], f"run_id = {quote(run_id)}")["step"].to_pylist()
    return max(steps, default=0)


def commit_plan(store: "LanceStore", plan: BatchPlan, run: "Run | None" = None) -> None:
    """Writes the plan; a second time changes nothing.

    Args:
        run: The plan's run. In its first incarnation no plan can be there, and it is appended without a look, for half the cost. None looks.
    """
    if run is not None and not run.incarnation:
        append_rows(store, "batch_plans", [plan.to_row()], before_commit=run.lease.check)
    else:
        insert_if_absent(store, "batch_plans", [plan.to_row()])


def commit_outcomes(store: "LanceStore", run: "Run", step: int, outcomes: Sequence["Outcome"]) -> None:
    """Writes the outcome of each rollout that the step trained on."""
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
            "entropies": outcome.entropies,
        }
        for outcome in outcomes
    ]
    append_rows(store, "training_outcomes", rows)
    run.upkeep.wrote("training_outcomes")
    run.upkeep.wrote("batch_plans")  # each step has written one


def stored_plan(store: "LanceStore", run_id: str, step: int) -> BatchPlan | None:
    """The plan that a run committed for a step, in the micro-batches that it is trained in; None when it has none."""
    rows = store.read("batch_plans", filter=f"row_id = {quote(plan_id(run_id, step))}").to_pylist()
    if not rows:
        return None
    row = rows[0]
    beside = {name: row[name] or [None] * len(row["entries"]) for name in BESIDE_ENTRIES}
    entries = tuple(
        PlanEntry(**entry | {name: _tuple_of(of[number]) for name, of in beside.items()})
        for number, entry in enumerate(row["entries"])
    )
    plan = BatchPlan(run_id, step, row["policy_version"], entries, row["seed"], json.loads(row["settings"]))
    return as_split(store, plan)


def _tuple_of(values: list[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


def read_rollouts(
    store: "LanceStore", run_id: str, step: int, columns: Sequence[str] = (*PLANNED_COLUMNS, "policy_version_last")
) -> list[dict[str, Any]]:
    """The rollouts of a step."""
    return store.read("rollouts", list(columns), f"run_id = {quote(run_id)} and step = {step}").to_pylist()


def read_samples(store: "LanceStore", run_id: str, step: int) -> list[TrainSample]:
    """All rollouts of a step that have tokens and logprobs, as samples without an advantage."""
    return samples_of(store, read_rollouts(store, run_id, step, [*BATCH_COLUMNS, "n_sampled_tokens"]))


def read_planned_samples(store: "LanceStore", plan: BatchPlan) -> list[TrainSample]:
    """The same of all rollouts that a plan keeps or leaves out."""
    where = _where(plan, [entry.rollout_id for entry in plan.entries])
    columns = [*BATCH_COLUMNS, "n_sampled_tokens"]
    return samples_of(store, store.read("rollouts", columns, where).to_pylist() if plan.entries else [])


def samples_of(store: "LanceStore", rollouts: Sequence[Mapping[str, Any]]) -> list[TrainSample]:
    """Those of the rollouts (BATCH_COLUMNS, n_sampled_tokens) that have tokens and logprobs, as samples without an advantage."""
    rows = [row for row in rollouts if row["n_sampled_tokens"] and row["logprobs"] is not None]
    prompts = prompt_tokens(store, rows) if rows else {}
    return [_sample(row, prompts, PlanEntry(row["rollout_id"], "", None, 0.0, False, None)) for row in rows]


def read_planned(store: "LanceStore", plan: BatchPlan) -> list[dict[str, Any]]:
    """The rollouts that a plan keeps or leaves out, columns PLANNED_COLUMNS, policy_version_last and run_id; of the runs that the plan names."""
    where = _where(plan, [entry.rollout_id for entry in plan.entries])
    return (
        store.read("rollouts", [*PLANNED_COLUMNS, "policy_version_last", "run_id"], where).to_pylist()
        if plan.entries
        else []
    )


def _where(plan: BatchPlan, rollout_ids: Sequence[str]) -> str:
    """Finds rollouts of a plan: the step's own, or of the runs that `rollouts_of` in its settings names (history, replay)."""
    runs = plan.settings.get("rollouts_of")
    own = f"run_id = {quote(plan.run_id)} and step = {plan.step}"
    place = own if runs is None else f"run_id in ({', '.join(map(quote, runs))})"
    return f"{place} and rollout_id in ({', '.join(map(quote, rollout_ids))})"


def as_stored(rollouts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rollout rows that were written just now as read_rollouts gives them with BATCH_COLUMNS, without reading: the store keeps logprobs and rewards in float32."""
    import numpy as np

    def stored(name: str, value: Any) -> Any:
        return value if value is None or name not in _IN_FLOAT32 else np.asarray(value, np.float32).tolist()

    return [{name: stored(name, row.get(name)) for name in _STEP_COLUMNS} for row in rollouts]


def read_batch(
    store: "LanceStore",
    plan: BatchPlan,
    rollouts: Sequence[dict[str, Any]] = (),
    prompts: dict[str, list[int]] | None = None,
) -> tuple[list[TrainSample], list[list[int]]]:
    """The samples that a plan trains on, in its order, and its micro-batches as positions among them.

    Args:
        rollouts: Of the step; they are read where they are none or lack BATCH_COLUMNS.
        prompts: prompt_key → tokens, of former steps; this step's are added.
    """
    kept = [entry for entry in plan.entries if entry.kept]
    if not kept:
        return [], []
    if not rollouts or "token_ids" not in rollouts[0]:
        where = _where(plan, [entry.rollout_id for entry in kept])
        rollouts = store.read("rollouts", BATCH_COLUMNS, where).to_pylist()
    rows = {row["rollout_id"]: row for row in rollouts}
    missing = [entry.rollout_id for entry in kept if entry.rollout_id not in rows]
    if missing:
        raise TrainingError(
            f"Step {plan.step} of run {plan.run_id} trains on rollout {missing[0]}, which is not in the store.",
            "`rollhouse check` lists what else is missing; the step cannot be run without it.",
        )
    prompts = {} if prompts is None else prompts
    unknown = [rows[entry.rollout_id] for entry in kept if prompt_key(rows[entry.rollout_id]) not in prompts]
    prompts |= prompt_tokens(store, unknown) if unknown else {}
    shares = _shares([rows[entry.rollout_id] for entry in kept])
    samples = [_sample(rows[entry.rollout_id], prompts, entry, shares[entry.rollout_id]) for entry in kept]
    micro_batches: list[list[int]] = [[] for _ in range(max(entry.micro_batch or 0 for entry in kept) + 1)]
    for position, entry in enumerate(kept):
        micro_batches[entry.micro_batch or 0].append(position)
    return samples, micro_batches


def take_stored(store: "LanceStore", run_id: str, learner: Any, steps: Iterable[int]) -> Iterator[int]:
    """Makes a learner take steps of a run again, from their stored plans; yields each step once it is taken.

    Raises TrainingError for one whose plan or rollouts are not in the store.
    """
    for step in steps:
        plan = stored_plan(store, run_id, step)
        if plan is None:
            raise TrainingError(
                f"Step {step} of run {run_id} has no plan in the store.",
                "`rollhouse check` lists what else is missing.",
            )
        learner.step(*read_batch(store, plan))
        yield step


def _shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """rollout_id → its share of the sampled tokens of its episode, of rows that are trained on."""
    sampled = {row["rollout_id"]: sum(row["loss_mask"]) for row in rows}
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row["episode_id"] or row["rollout_id"]] += sampled[row["rollout_id"]]
    return {
        row["rollout_id"]: sampled[row["rollout_id"]] / max(1, totals[row["episode_id"] or row["rollout_id"]])
        for row in rows
    }


def _sample(
    row: Mapping[str, Any], prompts: Mapping[str, list[int]], entry: PlanEntry, share: float = 1.0
) -> TrainSample:
    return TrainSample(
        rollout_id=row["rollout_id"],
        prompt_ids=prompts[prompt_key(row)],
        token_ids=row["token_ids"],
        loss_mask=row["loss_mask"],
        engine_logprobs=row["logprobs"],
        advantage=entry.advantage or 0.0,
        share=share,
        turn_advantages=entry.turn_advantages,
        teacher_logprobs=entry.teacher_logprobs,
        routes=row.get("routed_experts"),
    )


def in_the_store(store: "LanceStore", prompts: Iterable[tuple[str, str]], tokenizer: tuple[str, str]) -> set[str]:
    """What the store has of prompts: task ids whose prompt it has too, prompt ids, and prompt_keys whose tokens it has.

    Args:
        prompts: task_id and prompt_id.
        tokenizer: Hashes of tokenizer and template.
    """
    wanted = dict(prompts)
    tasks = _those_of(store, "tasks", wanted)
    there = _those_of(store, "prompts", wanted.values())
    keys = _those_of(store, "prompt_tokens", {hash_id(prompt_id, *tokenizer) for prompt_id in wanted.values()})
    return {task_id for task_id in tasks if wanted[task_id] in there} | there | keys


def _those_of(store: "LanceStore", table: str, keys: Iterable[str]) -> set[str]:
    """The keys that a table has."""
    wanted, key = pa.array(set(keys), pa.string()), TABLES[table].key
    columns = (batch.column(0) for batch in store.batches(table, [key]))
    return {found for column in columns for found in column.filter(pc.is_in(column, value_set=wanted)).to_pylist()}


def prompt_tokens(store: "LanceStore", rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """prompt_key → the rendered prompt's tokens, of rollout rows."""
    keys = ", ".join(quote(key) for key in {prompt_key(row) for row in rows})
    found = store.read("prompt_tokens", ["row_id", "token_ids"], f"row_id in ({keys})").to_pylist()
    return {row["row_id"]: row["token_ids"] for row in found}


def prompt_key(row: Mapping[str, Any]) -> str:
    """Row of `prompt_tokens` whose tokens a rollout's follow."""
    return hash_id(row["prompt_id"], row["tokenizer_hash"], row["template_hash"])


# -- micro-batches of a planned step, split again after it ran out of memory -------------------------------------------------


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
        return plan  # read_batch names what is missing
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
    return bool(run.store.lance_dataset("training_outcomes").count_rows(where))
