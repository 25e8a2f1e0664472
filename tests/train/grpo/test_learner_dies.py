"""kill -9 of a learner rank: the run goes on by itself and is, bit for bit, the one it would have been."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from rollhouse.base.errors import TrainingError
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run
from rollhouse.train.grpo.learner.group import LearnerGone
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.restarting import RestartingLearner
from rollhouse.train.grpo.loop import train_grpo
from rollhouse.train.grpo.replay import replay
from safetensors.torch import load_file

from .settings import learner_config

SPLIT = [[0, 1], [2, 3]]


def ranks_of(pid: int) -> list[psutil.Process]:
    """The processes of learner ranks under a process."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if "ray::_Rank" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


class Kills:
    """A viewer that kills the learner's last rank at given phases of steps."""

    def __init__(self, *moments: tuple[int, str]) -> None:
        self.moments = list(moments)

    def phase(self, step: int, what: str) -> None:
        if (step, what) in self.moments:
            self.moments.remove((step, what))
            os.kill(ranks_of(os.getpid())[-1].pid, signal.SIGKILL)

    def numbers(self, step: int, numbers: Any) -> None:
        pass


def restarts(store: LanceStore, run: str) -> dict[int, float]:
    rows = store.read("metrics", filter=f"run_id = '{run}' and name = 'learner/restarts'").to_pylist()
    return {row["step"]: row["value"] for row in rows}


def assert_whole(store: LanceStore, run: str, steps: int) -> None:
    """Nothing was sampled twice, and a learner that takes all plans in a row comes to the same bits."""
    slots = store.read("rollouts", ["slot_id"], f"run_id = '{run}'")["slot_id"].to_pylist()
    assert len(set(slots)) == len(slots)
    found = replay(store, run)
    assert found.identical and found.last_step == steps and found.difference is None
    assert get_run(store, run)["incarnation"] == 0


@pytest.mark.system
def test_a_learner_that_is_killed_takes_its_steps_again(prompt_store, configure, engine):
    lines = []
    config = configure(run="mended", checkpointing__save_period=None, grpo__num_prompts_per_step=3)
    row = train_grpo(prompt_store, config, engine=engine, viewer=Kills((2, "train")), progress=lambda *line: lines.append(line[2]))  # fmt: skip
    assert row["checkpoint_id"] == "mended/step_2"
    assert restarts(prompt_store, "mended") == {1: 0, 2: 1}
    assert "learner restarted 1×" in lines[-1] and "restarted" not in lines[0]
    assert_whole(prompt_store, "mended", 2)


@pytest.mark.system
def test_ranks_that_are_killed_in_any_phase_are_started_again(prompt_store, configure, engine):
    more = {"grpo.async_grpo__enabled": True}
    config = configure(run="mended-async", cluster__learner_ranks=2, grpo__max_num_steps=4, checkpointing__save_period=2, grpo__num_prompts_per_step=3, cluster__max_restarts=9, **more)  # fmt: skip
    train_grpo(prompt_store, config, engine=engine, viewer=Kills((2, "sync"), (3, "train"), (4, "wait")))
    assert restarts(prompt_store, config.run) == {1: 0, 2: 1, 3: 2, 4: 3}
    assert_whole(prompt_store, config.run, 4)


@pytest.mark.system
def test_the_command_whose_learner_is_killed_in_a_step_finishes(prompt_store, configure, tmp_path):
    config = configure(run="command", grpo__max_num_steps=6, policy__device="cpu", cluster__learner_ranks=2)
    settings = tmp_path / "config.yaml"
    settings.write_text(json.dumps(config.model_dump(mode="json")))
    rollhouse = str(Path(sys.executable).with_name("rollhouse"))
    command = [rollhouse, "train", "grpo", "--config", str(settings), "--store", prompt_store.uri]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 600
        while prompt_store.lance_dataset("batch_plans").count_rows("run_id = 'command' and step = 2") == 0:
            assert time.monotonic() < limit and process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        os.kill(ranks_of(process.pid)[0].pid, signal.SIGKILL)
        assert process.wait(600) == 0, (tmp_path / "log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "learner restarted 1×" in (tmp_path / "log").read_text()
    assert_whole(prompt_store, "command", 6)


class Dying:
    """A learner whose process is gone from its n-th step on."""

    def __init__(self, learner: Learner, good: int) -> None:
        self.learner, self.good = learner, good

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)

    def step(self, *given: Any) -> Any:
        self.good -= 1
        if self.good < 0:
            self.learner.step(*given)  # its weights are no longer those that were pushed
            raise LearnerGone("It has left.", "Look for it.")
        return self.learner.step(*given)


def test_what_takes_its_place_is_what_it_was(random_model, make_samples, tmp_path):
    settings = learner_config(lr=1e-2)
    batches = [make_samples(4, seed) for seed in range(4)]
    lives = iter([3, 0, 9])  # the second dies while it is brought to where the first was

    def another() -> Any:
        return Dying(Learner(str(random_model), settings), next(lives))

    def restore(learner: Any, steps: int) -> None:
        for samples in batches[:steps]:
            learner.step(samples, SPLIT)

    learner = RestartingLearner(another(), another, restore, max_restarts=2)
    assert learner.share_weights(str(tmp_path / "weights"))
    straight = Learner(str(random_model), settings)
    for samples in batches:
        assert learner.step(samples, SPLIT) == straight.step(samples, SPLIT)
    assert (learner.steps, learner.restarts, learner.last_failure) == (4, 2, "It has left.")
    straight.save_weights(str(tmp_path / "straight"))
    mapped, expected = load_file(tmp_path / "weights"), load_file(tmp_path / "straight")
    assert all(bool((mapped[name] == tensor).all()) for name, tensor in expected.items()), "it lives in the file again"

    group: Any = learner.group
    group.good = 0
    with pytest.raises(LearnerGone, match=r"died after 2 restarts \(cluster\.max_restarts\): It has left"):
        learner.step(batches[0], SPLIT)


def test_a_learner_that_fails_is_not_started_again(random_model, make_samples):
    started = []
    another = partial(started.append, 1)
    learner = RestartingLearner(Learner(str(random_model), learner_config()), another, another, max_restarts=3)  # type: ignore[arg-type]
    bad = [*make_samples(3), make_samples(4)[3]]
    bad[0] = type(bad[0])(**{**vars(bad[0]), "advantage": float("nan")})
    with pytest.raises(TrainingError, match="is nan"):
        learner.step(bad, SPLIT)
    assert not started and learner.restarts == 0
