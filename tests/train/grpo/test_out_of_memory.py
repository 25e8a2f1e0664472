"""A run whose learner ran out of memory goes on with smaller micro-batches, and is replayed as it was trained."""

import json
from typing import Any

import pytest
from rollhouse.base.errors import TrainingError
from rollhouse.train.grpo.learner.update import out_of_memory
from rollhouse.train.grpo.ledger import read_batch, stored_plan
from rollhouse.train.grpo.replay import replay

ROOM = 600
"""Padded tokens that the second step's micro-batches may have."""


class Small:
    """The learner, on a machine that has no memory for a large micro-batch from its second step on."""

    def __init__(self, learner: Any) -> None:
        self.learner = learner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)

    def step(self, samples: Any, micro_batches: Any, *more: Any) -> Any:
        sizes = [len(batch) * max(samples[position].length for position in batch) for batch in micro_batches]
        with out_of_memory(f"step {self.learner.steps + 1}"):
            if self.learner.steps and max(sizes) > ROOM:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return self.learner.step(samples, micro_batches, *more)


@pytest.mark.system
def test_a_step_that_did_not_fit_is_split_anew_and_replayed_so(prompt_store, configure, train_here):
    small = {"grpo__num_prompts_per_step": 3}
    with pytest.raises(TrainingError, match=r"Memory ran out in step 2: .* Lower policy.train_mb_tokens"):
        train_here(configure(run="short", **small), wrap_learner=Small)
    (planned,) = prompt_store.read("batch_plans", filter="run_id = 'short' and step = 2").to_pylist()
    row = train_here(configure(run="short", policy__train_mb_tokens=ROOM, **small), wrap_learner=Small)
    assert row["step"] == 2

    (after,) = prompt_store.read("batch_plans", filter="run_id = 'short' and step = 2").to_pylist()
    assert after == planned, "nothing is edited"
    first, plan = (stored_plan(prompt_store, "short", step) for step in (1, 2))
    assert first is not None and plan is not None
    samples, micro_batches = read_batch(prompt_store, plan)
    kept = {entry["rollout_id"]: entry["advantage"] for entry in planned["entries"] if entry["kept"]}
    assert {sample.rollout_id: sample.advantage for sample in samples} == kept
    assert len(micro_batches) > 1 + max(entry["micro_batch"] or 0 for entry in planned["entries"])
    assert plan.settings["plan"]["token_budget"] == ROOM
    assert first.settings["plan"]["token_budget"] == 1024

    found = replay(prompt_store, "short")
    assert found.identical and found.plans == "stored" and found.compared == [1, 2]
    copied = prompt_store.read("batch_plans", ["step", "settings"], f"run_id = '{found.replay}'").to_pylist()
    assert {row["step"]: json.loads(row["settings"])["plan"]["token_budget"] for row in copied} == {1: 1024, 2: ROOM}
