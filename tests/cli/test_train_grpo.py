"""`rollhouse train grpo`, as a user types it; the suite's engine is taken over."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run
from typer.testing import CliRunner, Result

from .test_collect import alive, descendants, rows_of, start, wait_for


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def output(result: Result) -> str:
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the prompt set `prompts@1`."""
    place = tmp_path_factory.mktemp("cli") / "store"
    play = ["collect", "--env", "workplace-mini", "--mistake-rate", 0.5, "--limit", 8, "--num-repeats", 4]
    assert rollhouse(*play, "--run", "logs", "--snapshot", "s1", "--store", place).exit_code == 0
    assert rollhouse("dataset", "build", "grpo", "prompts", "--from", "s1", "--store", place).exit_code == 0
    return place


def train(store: Path, *settings: object) -> Result:
    return rollhouse("train", "grpo", "--config", "tiny-grpo", "dataset=prompts", *settings, "--store", store)


def test_train_from_the_command_line(store: Path, engine: Any, tiny_base: Path) -> None:
    small = ["grpo.max_num_steps=1", "grpo.num_prompts_per_step=3", "grpo.num_generations_per_prompt=4"]
    where = [f"policy.model_name={tiny_base}", "run=cli-grpo"]
    result = train(store, *small, *where, "--format", "json")
    assert result.exit_code == 0, result.exception
    (made,) = json.loads(result.stdout)
    assert made["checkpoint_id"] == "cli-grpo/step_1" and made["dataset"] == "prompts@1"
    assert Path(made["path"]) == store / "checkpoints" / "cli-grpo" / "step_1"
    assert 0 <= made["metrics"]["train/reward"] <= 1 and made["metrics"]["rollouts/total"] == 12

    counted = rollhouse("sql", "select count(*) n from rollouts where run_id = 'cli-grpo'", "--format", "json", "--store", store)  # fmt: skip
    assert json.loads(counted.stdout) == [{"n": 12}]
    again = train(store, *small, *where)
    assert again.exit_code == 0 and "trained before" in output(again)
    refused = train(store, *small[:-1], *where, "policy.generation.max_new_tokens=7")
    assert refused.exit_code == 2 and "policy.generation.max_new_tokens is 96 in the run and 7 now" in output(refused)
    traced = rollhouse("lineage", "cli-grpo", "--store", store)
    assert traced.exit_code == 0 and "prompts@1" in traced.stdout and "s1" in traced.stdout


@pytest.mark.parametrize("recipe", ["tiny-grpo", "workplace-grpo-qwen3-4b"])
def test_shipped_recipes_resolve(recipe: str) -> None:
    given = ["--dataset", "d", "--model", "m", "++grpo.num_prompts_per_step=4", "--dry-run"]
    printed = rollhouse("train", "grpo", "--config", recipe, *given)
    assert printed.exit_code == 0 and "num_prompts_per_step: 4" in printed.stdout and "model_name: m" in printed.stdout


def test_requests_that_are_wrong(store: Path, tmp_path: Path) -> None:
    assert train(store, "--dry-run").exit_code == 0
    for expected, settings in {
        "Did you mean 'grpo.max_num_steps'?": ["grpo.max_steps=3"],
        "no dataset 'absent'": ["dataset=absent"],
        "temperature": ["policy.generation.temperature=0"],
        "seed follows from the other settings": ["policy.generation.vllm.seed=3"],
        "no model": [f"policy.model_name={tmp_path / 'absent'}"],
        "workplace-mini": ["environment.name=workplace"],
        "'math' stands twice": ["environment.mixture=[{name: math}, {name: math}]"],
    }.items():
        for result in (train(store, *settings), train(store, *settings, "--dry-run")):
            assert result.exit_code == 2 or getattr(result.exception, "exit_code", None) == 2, (
                settings,
                result.exception,
            )
            assert expected in output(result) + str(result.exception), settings


@pytest.mark.system
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_rollouts_and_no_process(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run = f"cut-{how.name.lower()}"
    process = start("train", "grpo", "--config", "tiny-grpo", "dataset=prompts", f"run={run}", "--store", store)
    wait_for(lambda: rows_of(store, run), 300)
    family = descendants(process.pid)
    assert len(family) > 3, "Ray, engine and learner run"
    if how is signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Interrupted" in errors and "Traceback" not in errors, errors
    wait_for(lambda: not [pid for pid in family if alive(pid)], 30)
    assert get_run(LanceStore.open(store), run)["status"] == "aborted"
    assert rows_of(store, run)
