"""Driver, learner and engine of an online run killed at random moments: the same command goes on, and the run is the one it would have been."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rollhouse.base.recipes import resolve
from rollhouse.cli.main import app
from rollhouse.policies.models import weights_hash
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run
from rollhouse.train.checkpoints import resolve_model
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.settings import learner_settings
from rollhouse.train.grpo.ledger import issued_before, read_batch, stored_plan
from rollhouse.train.grpo.prompts import prompts_of_step
from rollhouse.transform.materialize import grpo_tasks
from rollhouse.transform.versions import get_dataset
from typer.testing import CliRunner

from .test_collect import rows_of, start, wait_for

STEPS, PROMPTS, GROUP = 4, 4, 6
SMALL = [
    f"grpo.max_num_steps={STEPS}",
    f"grpo.num_prompts_per_step={PROMPTS}",
    f"grpo.num_generations_per_prompt={GROUP}",
    "checkpointing.save_period=1",
]
ASYNC = ["grpo.async_grpo.enabled=true", "grpo.async_grpo.max_trajectory_age_steps=2"]

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the prompt set `prompts@1`."""
    place = tmp_path_factory.mktemp("kills") / "store"
    for command in (
        "collect --env workplace-mini --mistake-rate 0.5 --limit 16 --num-repeats 4 --run logs --snapshot s1",
        "dataset build grpo prompts --from s1",
    ):
        assert CliRunner().invoke(app, [*command.split(), "--store", str(place)]).exit_code == 0
    return place


def begin(store: Path, run: str, *settings: str) -> Any:
    return start("train", "grpo", "--config", "tiny-grpo", "dataset=prompts", f"run={run}", *SMALL, *settings, "--store", store)  # fmt: skip


def kill_soon(store: Path, run: str, process: Any, seed: int) -> None:
    """kill -9 of the driver, some moments after its first new rollout; what belonged to it ends by itself."""
    before = len(rows_of(store, run))
    wait_for(lambda: len(rows_of(store, run)) > before or process.poll() is not None, 300)
    time.sleep(random.Random(seed).uniform(0, 4))
    family = actors(process.pid) if process.poll() is None else []
    process.kill()
    process.wait(60)
    _, left = psutil.wait_procs(family, 60)
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE], "engine and learner end with their driver"


def actors(driver: int) -> list[psutil.Process]:
    """The processes of the driver's engine and learner."""
    try:
        found = psutil.Process(driver).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in found if any(name in command(child) for name in ("EngineActor", "_Rank"))]


def command(process: psutil.Process) -> str:
    """What it was started as; nothing when it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def finish(process: Any) -> None:
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors


def is_as_if_never_killed(store: Path, run: str, *settings: str) -> None:
    """Prompts as in the recipe, no slot twice, every kept rollout trained, and the weights of one learner that takes all plans in a row."""
    place = LanceStore.open(store)
    tasks = grpo_tasks(place, get_dataset(place, "prompts"))
    expected = {step: [task.task_id for task in prompts_of_step(tasks, step, PROMPTS, 0)] for step in range(1, STEPS + 1)}  # fmt: skip
    assert issued_before(place, run) == {(step, 0): ids for step, ids in expected.items()}
    rows = place.read("rollouts", ["slot_id", "task_id", "step"], f"run_id = '{run}'").to_pylist()
    assert len({row["slot_id"] for row in rows}) == len(rows) == STEPS * PROMPTS * GROUP
    config = resolve(GrpoConfig, "tiny-grpo", ["dataset=prompts", *SMALL, *settings])
    learner = Learner(str(resolve_model(None, "tiny-base")), learner_settings(config))
    for step in expected:
        plan = stored_plan(place, run, step)
        assert plan is not None and plan.settings["task_ids"] == expected[step]
        learner.step(*read_batch(place, plan))
    again = store.parent / f"{run}-again"
    learner.save_pretrained(str(again))
    last = get_run(place, run)
    assert last["status"] == "finished" and last["summary"]["weights_hash"] == weights_hash(again)


def test_an_asynchronous_run_that_loses_its_driver_its_learner_and_its_engine(store: Path) -> None:
    kill_soon(store, "async", begin(store, "async", *ASYNC), seed=3)

    process = begin(store, "async", *ASYNC, "cluster.max_restarts=0")
    before = len(rows_of(store, "async"))
    wait_for(lambda: len(rows_of(store, "async")) > before or process.poll() is not None, 300)
    if process.poll() is None:
        rank = one_of(process.pid, "_Rank")
        if rank is None:  # it had only its end left
            finish(process)
        else:
            os.kill(rank, signal.SIGKILL)
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 1 and "learner" in errors and "Traceback" not in errors, errors
            assert get_run(LanceStore.open(store), "async")["status"] == "failed"

    more = f"grpo.max_num_steps={STEPS}"
    process = begin(store, "async", *ASYNC, more)
    before = len(rows_of(store, "async"))
    wait_for(lambda: len(rows_of(store, "async")) > before or process.poll() is not None, 300)
    if process.poll() is None:
        engine = one_of(process.pid, "EngineActor")
        if engine is not None:
            os.kill(engine, signal.SIGKILL)
    finish(process)
    is_as_if_never_killed(store, "async", *ASYNC)


def one_of(driver: int, name: str) -> int | None:
    """The process of a Ray actor of the driver's; None where it has ended."""
    return next((child.pid for child in actors(driver) if name in command(child)), None)
