"""One learning curve of benchmarks/grpo_curves.py: the tiny policy on workplace-mini, trained by us or by TRL.

    python benchmarks/grpo_curves_run.py ARM-AS-JSON

Prints one line of JSON: samples and validation pass rate after every few steps, and the mean reward of each step.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from rollhouse.environments.workplace_mini import MiniEnvironment

# Means over the steps, stored with a curve of ours.
MEASURES = ("staleness/token_mean", "staleness/token_max", "mismatch/logp_abs_diff")
MAX_TURNS, MAX_TOKENS, MAX_LENGTH = 6, 96, 1024


def train_ours(arm: dict[str, Any], base: Path, folder: Path) -> dict[str, Any]:
    """`train_grpo` on a prompt set of the same tasks."""
    from rollhouse.benchmarks.grpo_ours import logged
    from rollhouse.store.lance_store import LanceStore
    from rollhouse.train.grpo.config import GrpoConfig
    from rollhouse.train.grpo.loop import train_grpo

    store = LanceStore.create(folder / "store")
    make_prompts(store, arm["n_prompts"])
    staleness = arm["staleness"]
    config = {
        "run": "curve",
        "dataset": "prompts",
        "policy": {
            "model_name": str(base),
            "max_total_sequence_length": MAX_LENGTH,
            "device": "cpu",
            "optimizer": {"lr": arm["lr"]},
            "generation": {"max_new_tokens": MAX_TOKENS},
        },
        "grpo": {
            "num_prompts_per_step": arm["prompts"],
            "num_generations_per_prompt": arm["group"],
            "max_num_steps": arm["steps"],
            "seed": arm["seed"],
            "val_period": arm["val_period"],
            "val_at_start": True,
            "max_val_samples": arm["val_tasks"],
            "async_grpo": {"enabled": staleness is not None, "max_trajectory_age_steps": staleness or 0},
        },
        "loss_fn": {"use_importance_sampling_correction": arm["correction"]},
        "environment": {"max_turns": MAX_TURNS},
        "checkpointing": {"checkpoint_dir": str(folder / "checkpoints")},
        "logger": {"log_dir": str(folder / "logs")},
    }
    train_grpo(store, GrpoConfig.model_validate(config))
    rows = store.read("metrics").to_pylist()
    accuracy = {row["step"]: row["value"] for row in rows if row["name"] == "val/accuracy"}
    numbers = logged(store)
    return {
        "validation": sorted(accuracy.items()),
        "rewards": numbers["train/reward"],
        "measures": {name: mean(numbers[name]) for name in MEASURES if name in numbers},
    }


def make_prompts(store: Any, count: int) -> None:
    """The prompt set `prompts`: the first training tasks."""
    from rollhouse.collect.runner import collect
    from rollhouse.policies.scripted import ScriptedPolicy
    from rollhouse.store.runs import start_run
    from rollhouse.store.snapshots import create_snapshot
    from rollhouse.transform.build import build_grpo
    from rollhouse.transform.options import GrpoOptions

    environment = MiniEnvironment()
    with start_run(store, "collect", "script") as run:
        collect(store, run, environment, ScriptedPolicy(), list(environment.tasks("train"))[:count])
    create_snapshot(store, "start")
    build_grpo(store, "prompts", "start", GrpoOptions(zero_variance="keep"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from rollhouse.train.tiny import base_policy

    settings = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="rollhouse-curve-") as scratch:
        if settings["side"] == "ours":
            result = train_ours(settings, base_policy(), Path(scratch))
        else:
            from rollhouse.benchmarks.grpo_curves_trl import train_trl

            result = train_trl(settings, base_policy(), Path(scratch))
    print(json.dumps(settings | result))
