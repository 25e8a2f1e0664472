"""GRPO of an agent that nobody here wrote: the OpenAI Agents SDK, unchanged, against the trainer's own engine."""

import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.collect.runner import collect
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.loop import train_grpo
from rollhouse.train.grpo.replay import replay
from rollhouse.transform.build import build_grpo

AGENT = str(Path(__file__).resolve().parents[2] / "examples" / "office_agent.py") + ":run"
PROMPTS, GROUP, STEPS = 3, 4, 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, engine: Any) -> LanceStore:
    """A store with run `agent`: three asynchronous steps, weights changing while agents play, validated at the end."""
    store = LanceStore.create(tmp_path_factory.mktemp("harness") / "store")
    environment = MiniEnvironment(n_train=9)
    with start_run(store, "collect", "script") as run:
        policy = ScriptedPolicy(mistake_rate=0.5)
        collect(store, run, environment, policy, environment.tasks("train"), num_repeats=4)
    create_snapshot(store, "s1")
    build_grpo(store, "prompts", "s1")
    config = GrpoConfig.model_validate(
        {
            "run": "agent",
            "dataset": "prompts",
            "policy": {
                "model_name": str(tiny_base),
                "max_total_sequence_length": 1024,
                "optimizer": {"lr": 1e-4},
                "generation": {"max_new_tokens": 96},
            },
            "grpo": {
                "num_prompts_per_step": PROMPTS,
                "num_generations_per_prompt": GROUP,
                "max_num_steps": STEPS,
                "async_grpo": {"enabled": True},
                "val_at_end": True,
                "max_val_samples": 4,
            },
            "environment": {"harness": AGENT},
            "checkpointing": {"save_period": 1},
        }
    )
    train_grpo(store, config, engine=engine)
    return store


@pytest.mark.system
def test_three_steps_of_an_agent_are_on_record(trained: LanceStore) -> None:
    rows = [row for row in trained.read("rollouts").to_pylist() if row["run_id"] == "agent"]
    assert len({row["episode_id"] for row in rows}) == STEPS * PROMPTS * GROUP
    assert len({row["group_id"] for row in rows}) == STEPS * PROMPTS
    for row in rows:
        assert row["status"] in ("completed", "truncated") and row["prefix_ok"] and row["n_sampled_tokens"] > 0, row
        assert json.loads(row["extra"])["harness"]["name"] == AGENT and row["temperature"] == 1.0
        assert row["policy_version"] >= row["step"] - 2
    assert len({row["reward"] for row in rows}) == 2
    gaps = trained.read("metrics", ["name", "value"], "run_id = 'agent'").to_pylist()
    assert max(row["value"] for row in gaps if row["name"] == "mismatch/sync_max_abs") < 1e-3
    assert [row["value"] for row in gaps if row["name"] == "val/n"] == [4.0]
    judged = [row for row in trained.read("rollouts").to_pylist() if row["run_id"] == f"agent-val-{STEPS}"]
    assert all(json.loads(row["extra"])["harness"]["name"] == AGENT for row in judged) and judged


@pytest.mark.system
def test_its_replay_makes_the_same_bits(trained: LanceStore) -> None:
    found = replay(trained, "agent")
    assert found.identical is True and list(found.compared) == [1, 2, 3]
    hashes = [row["weights_hash"] for row in trained.read("checkpoints").to_pylist() if row["run_id"] == "agent"]
    assert len(set(hashes)) == STEPS
