"""kill -9 at random moments: the same command goes on, and the run is the one it would have been."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rollhouse.policies.models import weights_hash
from rollhouse.store.maintenance import check
from rollhouse.store.runs import get_run
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.settings import learner_settings
from rollhouse.train.grpo.ledger import issued_before, read_batch, stored_plan
from rollhouse.train.grpo.prompts import prompts_of_step
from rollhouse.transform.materialize import grpo_tasks
from rollhouse.transform.versions import get_dataset

STEPS, PROMPTS, GROUP, KILLS = 4, 3, 3, 4


@pytest.mark.system
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_run_killed_at_random_moments_is_the_one_it_would_have_been(prompt_store, configure, tmp_path, mode):
    more = {"grpo.async_grpo__enabled": True, "grpo.async_grpo__max_trajectory_age_steps": 2} if mode == "async" else {}
    sizes = {"grpo__num_prompts_per_step": PROMPTS, "grpo__num_generations_per_prompt": GROUP, "grpo__max_num_steps": STEPS}  # fmt: skip
    config = configure(run=f"killed-{mode}", **sizes, **more)
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, str(Path(__file__).with_name("here.py")), prompt_store.uri, str(settings)]

    moments = random.Random(mode)
    for _ in range(KILLS):
        process = subprocess.Popen(command)
        wait_for_a_sign(prompt_store, config.run, process)
        time.sleep(moments.uniform(0, 4))
        process.kill()
        process.wait(60)
    subprocess.run(command, check=True, timeout=300)

    tasks = grpo_tasks(prompt_store, get_dataset(prompt_store, "mixed"))
    expected = {step: [task.task_id for task in prompts_of_step(tasks, step, PROMPTS, 0)] for step in range(1, STEPS + 1)}  # fmt: skip
    assert issued_before(prompt_store, config.run) == {(step, 0): ids for step, ids in expected.items()}
    rows = prompt_store.read("rollouts", ["slot_id"], f"run_id = '{config.run}'")["slot_id"].to_pylist()
    assert len(set(rows)) == len(rows) == STEPS * PROMPTS * GROUP, "no slot is empty, none was filled twice"
    assert not check(prompt_store)

    # One learner that takes all plans in a row, as if nothing had happened.
    learner = Learner(config.policy.model_name, learner_settings(config))
    for step in expected:
        plan = stored_plan(prompt_store, config.run, step)
        assert plan is not None and plan.settings["task_ids"] == expected[step]
        learner.step(*read_batch(prompt_store, plan))
    learner.save_pretrained(str(tmp_path / "again"))
    run = get_run(prompt_store, config.run)
    assert run["status"] == "finished" and run["incarnation"] > 0
    assert run["summary"]["weights_hash"] == weights_hash(tmp_path / "again")


def wait_for_a_sign(store, run, process):
    """Until the process has written an event of its run, so that kills come after its start."""
    seen, limit = events(store, run), time.monotonic() + 120
    while events(store, run) == seen and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.05)


def events(store, run):
    return store.lance_dataset("run_events").count_rows(f"run_id = '{run}'")
