"""Generation beside the learner: the same prompts, bounded age, tokens that know who sampled them, and an end in order."""

import gc
import json
import math
import shutil
import threading
import time
from dataclasses import replace

import pytest
from rollhouse.base.errors import EngineError, TrainingError
from rollhouse.policies.engines.base import EngineGone
from rollhouse.store.runs import get_run
from rollhouse.train.grpo import generation
from rollhouse.train.grpo.prompts import prompts_of_step
from rollhouse.transform.materialize import grpo_tasks
from rollhouse.transform.versions import get_dataset

STEPS, AGE, PROMPTS, GROUP = 3, 1, 3, 3


def asynchronous(**more):
    return {"grpo.async_grpo__enabled": True, "grpo.async_grpo__max_trajectory_age_steps": AGE, "grpo__max_num_steps": STEPS, "grpo__num_prompts_per_step": PROMPTS, "grpo__num_generations_per_prompt": GROUP, **more}  # fmt: skip


@pytest.fixture(scope="module")
def runs(prompt_store, configure, train_here):
    """One run with weights that arrive between two tokens; one whose weights wait until nothing is in flight, with dynamic sampling."""
    train_here(configure(run="async", **asynchronous()))
    drained = {"grpo.async_grpo__in_flight_weight_updates": False, "policy.generation__concurrency": 9}
    dynamic = {"grpo__use_dynamic_sampling": True, "grpo__dynamic_sampling_max_gen_batches": 3}
    train_here(configure(run="drained", **asynchronous(**drained, **dynamic)))
    return prompt_store


@pytest.fixture(scope="module")
def expected(prompt_store):
    """Step → the prompts that every run of this recipe consumes."""
    tasks = grpo_tasks(prompt_store, get_dataset(prompt_store, "mixed"))
    return {step: [task.task_id for task in prompts_of_step(tasks, step, PROMPTS, 0)] for step in range(1, STEPS + 1)}


def prompts_by_step(store, run):
    plans = store.read("batch_plans", filter=f"run_id = '{run}'").to_pylist()
    return {plan["step"]: json.loads(plan["settings"])["task_ids"] for plan in plans}


def rollouts(store, run):
    return store.read("rollouts", filter=f"run_id = '{run}'").to_pylist()


def metrics(store, run, name):
    rows = store.read("metrics", filter=f"run_id = '{run}' and name = '{name}'").to_pylist()
    return {row["step"]: row["value"] for row in rows}


def issued(store, run):
    rows = store.read("run_events", filter=f"run_id = '{run}' and event = 'note'").to_pylist()
    notes = [note for row in rows if (note := json.loads(row["payload"]).get("issued"))]
    return {(note["step"], note["round"]): note["task_ids"] for note in notes}


def test_the_mode_changes_nothing_about_the_prompts_and_they_are_on_record(runs, expected):
    assert prompts_by_step(runs, "async") == expected
    assert issued(runs, "async") == {(step, 0): tasks for step, tasks in expected.items()}


def test_groups_without_spread_are_replaced_by_others_and_stay_on_record(runs, expected):
    tasks_of, refilled = prompts_by_step(runs, "drained"), metrics(runs, "drained", "groups/refilled")
    assert {step: tasks[:PROMPTS] for step, tasks in tasks_of.items()} == expected
    assert {step: len(tasks) - PROMPTS for step, tasks in tasks_of.items()} == refilled and sum(refilled.values()) > 0
    notes = issued(runs, "drained")
    for plan in runs.read("batch_plans", filter="run_id = 'drained'").to_pylist():
        step, tasks = plan["step"], tasks_of[plan["step"]]
        assert len(set(tasks)) == len(tasks)
        rounds = [notes[step, number] for number in range(3) if (step, number) in notes]
        assert [task for chosen in rounds for task in chosen] == tasks
        assert json.loads(plan["settings"]).get("round_sizes", [PROMPTS]) == [len(tasks) for tasks in rounds]
        kept = {entry["group_id"] for entry in plan["entries"] if entry["kept"]}
        dropped = {entry["group_id"] for entry in plan["entries"] if entry["reason"] == "zero_std"}
        assert bool(dropped) == (refilled[step] > 0) and not kept & dropped
        assert len(kept) + metrics(runs, "drained", "groups/missing")[step] == PROMPTS


@pytest.mark.parametrize("run", ["async", "drained"])
def test_no_rollout_is_older_than_the_bound_and_some_are_not_of_the_newest(runs, run):
    ages = {row["rollout_id"]: row["step"] - 1 - row["policy_version"] for row in rollouts(runs, run)}
    assert min(ages.values()) >= 0 and 0 < max(ages.values()) <= AGE
    maxima = metrics(runs, run, "staleness/max")
    assert maxima.keys() == set(range(1, STEPS + 1)) and max(maxima.values()) == max(ages.values())
    assert min(metrics(runs, run, "staleness/token_mean").values()) >= 0


def test_tokens_know_the_version_that_sampled_them(runs):
    for row in rollouts(runs, "async"):
        versions = [span["version"] for span in row["version_spans"]]
        assert versions == sorted(set(versions))
        assert (versions[0], versions[-1]) == (row["policy_version"], row["policy_version_last"])
    assert all(row["policy_version"] == row["policy_version_last"] for row in rollouts(runs, "drained"))


def test_the_engine_was_the_learner_after_every_push(runs):
    gaps = metrics(runs, "async", "mismatch/sync_max_abs")
    assert gaps.keys() == {
        0,
        *range(2, STEPS + 1),
    }  # a step brings the number of the push before; the last brings its own
    assert max(gaps.values()) < 1e-3
    assert set(metrics(runs, "async", "time/overlap")) == set(range(1, STEPS + 1))


def test_each_step_trains_on_its_own_groups(runs):
    rows = {row["rollout_id"]: row["step"] for row in rollouts(runs, "async")}
    for plan in runs.read("batch_plans", filter="run_id = 'async'").to_pylist():
        assert {rows[entry["rollout_id"]] for entry in plan["entries"]} == {plan["step"]}


class Broken:
    """The engine, until it has answered `good` requests of rollouts with weights of `version` or newer; then it raises."""

    def __init__(self, engine, version, good):
        self.engine, self.since, self.good = engine, version, good

    def __getattr__(self, name):
        return getattr(self.engine, name)

    async def generate(self, prompt_ids, sampling):
        if self.engine.version >= self.since and threading.current_thread() is not threading.main_thread():
            self.good -= 1
            if self.good < 0:
                raise EngineGone("The engine has left.", "Look for it.")
        return await self.engine.generate(prompt_ids, sampling)


def test_a_broken_run_goes_on_from_the_learners_state_as_if_it_had_trained_every_plan_again(
    prompt_store, configure, train_here, expected
):
    config = configure(run="broken", **asynchronous())
    with pytest.raises(EngineError, match="has left"):
        train_here(config, lambda engine: Broken(engine, version=1, good=5))
    before = {row["rollout_id"] for row in rollouts(prompt_store, "broken")}
    assert before and get_run(prompt_store, "broken")["status"] == "failed"
    states = list(trained_folder(config).glob("state_*"))
    assert len(states) == 1, "it broke after its first steps, and one state is kept"
    went_on = train_here(config)
    after = rollouts(prompt_store, "broken")
    assert before < {row["rollout_id"] for row in after}
    assert len({row["slot_id"] for row in after}) == len(after), "no slot was filled twice"
    assert prompts_by_step(prompt_store, "broken") == expected
    again = prompt_store.read("training_outcomes", filter="run_id = 'broken' and incarnation = 1").to_pylist()
    assert min(row["step"] for row in again) == int(states[0].name.removeprefix("state_")) + 1

    shutil.rmtree(trained_folder(config) / f"state_{STEPS}")
    more = configure(run="broken", **asynchronous(grpo__max_num_steps=STEPS + 1), checkpointing__save_optimizer=False)
    train_here(more)
    rows = prompt_store.read("checkpoints", filter="run_id = 'broken' and incarnation = 2").to_pylist()
    assert [row["weights_hash"] for row in rows if row["step"] == STEPS] == [went_on["weights_hash"]]


def trained_folder(config):
    return config.checkpointing.checkpoint_dir / config.run


class Poisoned:
    """The learner, whose second batch has an advantage that is not a number."""

    def __init__(self, learner):
        self.learner = learner

    def __getattr__(self, name):
        return getattr(self.learner, name)

    def step(self, samples, micro_batches, *more):
        if self.learner.steps == 1:
            samples = [replace(samples[0], advantage=math.nan), *samples[1:]]
        return self.learner.step(samples, micro_batches, *more)


def test_a_step_that_is_not_finite_stops_the_run_or_costs_only_itself(prompt_store, configure, train_here):
    with pytest.raises(TrainingError, match="step 2 is nan"):
        train_here(configure(run="poisoned", **asynchronous(grpo__max_num_steps=3)), wrap_learner=Poisoned)
    skipping = configure(run="poisoned", **asynchronous(grpo__max_num_steps=3), grpo__on_nonfinite="skip")
    shutil.rmtree(trained_folder(skipping) / "state_1")
    train_here(skipping, wrap_learner=Poisoned)
    assert metrics(prompt_store, "poisoned", "train/skipped") == {1: 0, 2: 1, 3: 0}
    rows = prompt_store.read("checkpoints", filter="run_id = 'poisoned' and incarnation = 1").to_pylist()
    hashes = {row["step"]: row["weights_hash"] for row in rows}
    assert hashes[1] == hashes[2] != hashes[3]
    assert max(metrics(prompt_store, "poisoned", "mismatch/sync_max_abs").values()) < 1e-3


class Frozen(Broken):
    """The engine, whose first answer to a rollout holds up the whole event loop."""

    slept = False

    async def generate(self, prompt_ids, sampling):
        # The engine is compared with the learner before the first rollout, on another thread.
        if threading.current_thread().name == "rollhouse-generation" and not self.slept:
            self.slept = True
            time.sleep(4)
        return await self.engine.generate(prompt_ids, sampling)


@pytest.mark.filterwarnings("error:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_thread_that_shows_no_sign_of_life_is_not_waited_for(prompt_store, configure, train_here, monkeypatch):
    monkeypatch.setattr(generation, "_SLACK_S", 0.2)
    config = configure(run="frozen", **asynchronous(), **{"policy.generation__time_limit_s": 0.3})
    with pytest.raises(EngineError, match="No rollout began or ended for 1 s"):
        train_here(config, lambda engine: Frozen(engine, 0, 0))
    # It was given up, not killed: when its environment lets go of it, it ends its rollouts and closes its loop.
    for thread in threading.enumerate():
        if thread.name == "rollhouse-generation":
            thread.join(60)
            assert not thread.is_alive()
    gc.collect()
