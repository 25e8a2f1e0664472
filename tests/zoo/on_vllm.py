"""A model on vLLM, in a process of its own: pushes, then two GRPO steps; prints each that passed. python on_vllm.py FOLDER SCRATCH"""

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from rollhouse.tests.train.grpo.here import train_here
from rollhouse.tests.zoo.checks import pushed

GUESS = f"{Path(__file__).with_name('guess.py')}:EvenLength"


def grpo(folder: Path, engine: Any, scratch: Path, **policy_settings: Any) -> None:
    """Two steps: every push is checked against the learner's logprobs, or the run fails."""
    from rollhouse.collect.runner import collect
    from rollhouse.environments.registry import load_environment
    from rollhouse.policies.chat import ChatFormat
    from rollhouse.policies.models import weights_hash
    from rollhouse.policies.token_policy import TokenPolicy
    from rollhouse.policies.types import Sampling
    from rollhouse.store.lance_store import LanceStore
    from rollhouse.store.runs import start_run
    from rollhouse.store.snapshots import create_snapshot
    from rollhouse.train.grpo.config import GrpoConfig
    from rollhouse.transform.build import build_grpo

    store, environment = LanceStore.create(scratch / "store"), load_environment(GUESS)
    policy = TokenPolicy(engine, ChatFormat.of(folder), weights_hash(folder))
    with start_run(store, "collect", "before") as run:
        sampling = Sampling(max_tokens=12, seed=0)
        collect(store, run, environment, policy, environment.tasks("train"), num_repeats=8, sampling=sampling)
    create_snapshot(store, "s1")
    build_grpo(store, "prompts", "s1")
    settings = {
        "run": "zoo",
        "dataset": "prompts",
        "policy": {
            "model_name": str(folder),
            "max_total_sequence_length": 256,
            "optimizer": {"lr": 1e-3},
            "generation": {"max_new_tokens": 12, "weight_sync": "file"},
            **policy_settings,
        },
        "grpo": {"num_prompts_per_step": 2, "num_generations_per_prompt": 8, "max_num_steps": 2},
        "environment": {"name": GUESS, "max_turns": 1},
    }
    row = train_here(store, GrpoConfig.model_validate(settings), wrap=lambda _: engine)
    assert row["step"] == 2 and Path(row["path"]).is_dir()
    assert weights_hash(row["path"]) != weights_hash(folder), "nothing was trained"


def main(folder: Path, scratch: Path) -> None:
    from rollhouse.policies.engines.vllm_engine import VllmEngine

    with closing(VllmEngine(str(folder), (2,), 512)) as engine:
        pushed(folder, engine, scratch)
        print("vLLM and push", flush=True)
        grpo(folder, engine, scratch)
        print("GRPO", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
