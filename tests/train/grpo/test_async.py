"""Generation beside the learner: the same prompts, bounded age, tokens that know who sampled them, and an end in order."""

import json

import pytest
from rollhouse.store.errors import EngineError
from rollhouse.store.runs import get_run
from rollhouse.train.grpo.loop import train_grpo

STEPS, AGE = 4, 2


def asynchronous(**more):
    return {"grpo.async_grpo__enabled": True, "grpo.async_grpo__max_trajectory_age_steps": AGE, "grpo__max_num_steps": STEPS, **more}  # fmt: skip


@pytest.fixture(scope="module")
def runs(prompt_house, configure, engine):
    """The same recipe synchronously, asynchronously, and with weights that wait until nothing is in flight."""
    train_grpo(prompt_house, configure(run="sync", grpo__max_num_steps=STEPS), engine=engine)
    train_grpo(prompt_house, configure(run="async", **asynchronous()), engine=engine)
    drained = {"grpo.async_grpo__in_flight_weight_updates": False, "policy.generation__concurrency": 20}
    train_grpo(prompt_house, configure(run="drained", **asynchronous(**drained)), engine=engine)
    return prompt_house


def prompts_by_step(house, run):
    plans = house.read("batch_plans", filter=f"run_id = '{run}'").to_pylist()
    return {plan["step"]: json.loads(plan["settings"])["task_ids"] for plan in plans}


def rollouts(house, run):
    return house.read("rollouts", filter=f"run_id = '{run}'").to_pylist()


def metrics(house, run, name):
    rows = house.read("metrics", filter=f"run_id = '{run}' and name = '{name}'").to_pylist()
    return {row["step"]: row["value"] for row in rows}


def test_both_modes_consume_the_same_prompts(runs):
    assert prompts_by_step(runs, "async") == prompts_by_step(runs, "sync") == prompts_by_step(runs, "drained")
    notes = runs.read("run_events", filter="run_id = 'async' and event = 'note'").to_pylist()
    issued = {note["step"]: note["task_ids"] for row in notes if (note := json.loads(row["payload"]).get("issued"))}
    assert issued == prompts_by_step(runs, "async")


@pytest.mark.parametrize("run", ["async", "drained"])
def test_no_rollout_is_older_than_the_bound_and_some_are_not_of_the_newest(runs, run):
    ages = {row["rollout_id"]: row["step"] - 1 - row["policy_version"] for row in rollouts(runs, run)}
    assert min(ages.values()) >= 0 and 0 < max(ages.values()) <= AGE
    told = metrics(runs, run, "staleness/max")
    assert told.keys() == set(range(1, STEPS + 1)) and max(told.values()) == max(ages.values())
    assert max(metrics(runs, "sync", "staleness/token_max").values()) == 0


def test_tokens_know_the_version_that_sampled_them(runs):
    for row in rollouts(runs, "async"):
        versions = [span["version"] for span in row["version_spans"]]
        assert versions == sorted(set(versions))
        assert (versions[0], versions[-1]) == (row["policy_version"], row["policy_version_last"])
    assert all(row["policy_version"] == row["policy_version_last"] for row in rollouts(runs, "drained"))


def test_the_engine_was_the_learner_after_every_push(runs):
    gaps = metrics(runs, "async", "mismatch/sync_max_abs")
    assert gaps.keys() == set(range(STEPS + 1)) and max(gaps.values()) < 1e-3
    assert set(metrics(runs, "async", "time/overlap")) == set(range(1, STEPS + 1))


def test_each_step_trains_on_its_own_groups(runs):
    rows = {row["rollout_id"]: row["step"] for row in rollouts(runs, "async")}
    for plan in runs.read("batch_plans", filter="run_id = 'async'").to_pylist():
        assert {rows[entry["rollout_id"]] for entry in plan["entries"]} == {plan["step"]}


class Broken:
    """The engine, until it has answered `good` requests; then it raises."""

    def __init__(self, engine, good):
        self.engine, self.good = engine, good

    def __getattr__(self, name):
        return getattr(self.engine, name)

    async def generate(self, prompt_ids, sampling):
        self.good -= 1
        if self.good < 0:
            from rollhouse.collect.engines.base import EngineGone

            raise EngineGone("The engine has left.", "Look for it.")
        return await self.engine.generate(prompt_ids, sampling)


def test_what_the_thread_ran_into_ends_the_run_and_the_same_command_goes_on(prompt_house, configure, engine):
    config = configure(run="broken", **asynchronous())
    with pytest.raises(EngineError, match="has left"):
        train_grpo(prompt_house, config, engine=Broken(engine, good=150))
    before = {row["rollout_id"] for row in rollouts(prompt_house, "broken")}
    assert before and get_run(prompt_house, "broken")["status"] == "failed"
    train_grpo(prompt_house, config, engine=engine)
    after = rollouts(prompt_house, "broken")
    assert before < {row["rollout_id"] for row in after}
    assert len({row["slot_id"] for row in after}) == len(after), "no slot was filled twice"
    assert prompts_by_step(prompt_house, "broken") == prompts_by_step(prompt_house, "sync")
