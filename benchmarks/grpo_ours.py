"""Our side of benchmarks/grpo.py, through the front door: a prompt set in a store, `train_grpo`, and the numbers it logged.

    python benchmarks/grpo_ours.py WORKLOAD-AS-JSON

Prints one line of JSON: seconds of each step, rewards, and seconds of each phase.
"""

import itertools
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rollhouse.benchmarks import grpo_task
from rollhouse.benchmarks.grpo_task import EvenTokens


def run(work: dict[str, Any]) -> dict[str, Any]:
    """Trains and times it; a step lasts from the end of the one before it to its own."""
    os.environ["OMP_NUM_THREADS"] = str(work["engine_threads"])  # of the engine's process
    from rollhouse.store.lance_store import LanceStore
    from rollhouse.train.grpo.config import GrpoConfig
    from rollhouse.train.grpo.loop import train_grpo

    with tempfile.TemporaryDirectory(prefix="rollhouse-bench-") as folder:
        store = LanceStore.create(Path(folder) / "store")
        make_prompts(store, work)
        ends = [time.perf_counter()]

        def progress(step: int, steps: int, line: str) -> None:
            if step:
                ends.append(time.perf_counter())

        train_grpo(store, GrpoConfig.model_validate(configuration(work, folder)), progress=progress)
        numbers = logged(store)
    return {
        "side": "ours",
        "seconds": [after - before for before, after in itertools.pairwise(ends)][:-1],
        "rewards": numbers["train/reward"][:-1],
        "lengths": numbers["len/mean"],
        "phases": {name: values[:-1] for name, values in numbers.items() if name.startswith("time/")},
        "staleness": numbers.get("staleness/token_mean", []),
        "mismatch": numbers["mismatch/sync_max_abs"],
    }


def make_prompts(store: Any, work: dict[str, Any]) -> None:
    """The prompt set `prompts`. A set is built from rollouts, so a script leaves one of each task."""
    from rollhouse.collect.runner import collect
    from rollhouse.policies.scripted import ScriptedPolicy
    from rollhouse.store.runs import start_run
    from rollhouse.store.snapshots import create_snapshot
    from rollhouse.transform.build import build_grpo
    from rollhouse.transform.options import GrpoOptions

    environment = EvenTokens(work["n_prompts"], work["prompt_tokens"])
    with start_run(store, "collect", "script") as started:
        collect(store, started, environment, ScriptedPolicy(), environment.tasks("train"))
    create_snapshot(store, "start")
    build_grpo(store, "prompts", "start", GrpoOptions(zero_variance="keep"))


def configuration(work: dict[str, Any], folder: str) -> dict[str, Any]:
    """The same algorithm as TRL's side; what is left out is our default."""
    length = work["prompt_tokens"] + work["new_tokens"] + 8
    return {
        "run": "bench",
        "dataset": "prompts",
        "policy": {
            "model_name": work["model"],
            "max_total_sequence_length": length,
            "precision": work["precision"],
            "train_mb_tokens": work["micro_batch_tokens"],
            "threads": work["learner_threads"],
            "device": "cuda" if work["gpu"] else "cpu",
            "optimizer": {"lr": work["lr"]},
            "generation": {
                "max_new_tokens": work["new_tokens"],
                "sync_tolerance": 0.1,  # the engine computes in bfloat16
                "vllm": {"dtype": "bfloat16", "enforce_eager": work["eager"]},
            },
        },
        "grpo": {
            "num_prompts_per_step": work["prompts"],
            "num_generations_per_prompt": work["group"],
            "max_num_steps": work["steps"] + 1,  # the last one also saves a checkpoint, so it is not counted
            "seed": work["seed"],
            "async_grpo": {"enabled": work["staleness"] > 0, "max_trajectory_age_steps": work["staleness"]},
        },
        "environment": {"name": f"{grpo_task.__file__}:EvenTokens"},
        "checkpointing": {"checkpoint_dir": f"{folder}/checkpoints"},
        "logger": {"log_dir": f"{folder}/logs", "wandb_enabled": False},
    }


def logged(store: Any) -> dict[str, list[float]]:
    """By name, the metrics of steps 1 and on."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in sorted(store.read("metrics").to_pylist(), key=lambda row: row["step"]):
        if row["step"] > 0:
            found[row["name"]].append(row["value"])
    return found


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
