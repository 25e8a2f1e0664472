"""TRL's side of benchmarks/grpo.py: GRPOTrainer with colocated vLLM, in this process.

    python benchmarks/grpo_trl.py WORKLOAD-AS-JSON

Prints one line of JSON: seconds of each step, rewards, and the times that TRL reports.
"""

import itertools
import json
import os
import socket
import sys
import tempfile
import time
from collections import defaultdict
from typing import Any

from rollhouse.benchmarks.grpo_task import even_share, prompt_texts
from rollhouse.train.grpo.prompts import prompts_of_step


def prepare(threads: int) -> None:
    """Sets the environment that vLLM beside a trainer needs on a CPU; before torch is imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads), "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    from rollhouse.policies.engines.environment import prepare_environment

    prepare_environment()
    from rollhouse.policies.engines import plain_linear  # noqa: F401  without it new weights would not arrive


def trainer_config(work: dict[str, Any], folder: str) -> Any:
    """The same algorithm as ours: group advantages, token mean, clip at 0.2, correction capped at 2, no KL, a batch used once."""
    from trl.trainer.grpo_config import GRPOConfig

    rollouts = work["prompts"] * work["group"]
    return GRPOConfig(
        output_dir=folder, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, seed=work["seed"],
        use_cpu=not work["gpu"], bf16=work["precision"] == "bfloat16", gradient_checkpointing=False,
        max_steps=work["steps"], per_device_train_batch_size=work["micro_batch"] or rollouts,
        gradient_accumulation_steps=rollouts // (work["micro_batch"] or rollouts), num_generations=work["group"],
        max_completion_length=work["new_tokens"], temperature=1.0, shuffle_dataset=False,
        learning_rate=work["lr"], lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, adam_beta2=0.999,
        beta=0.0, loss_type="dapo", scale_rewards="group", epsilon=0.2, epsilon_high=0.2, num_iterations=1,
        vllm_importance_sampling_correction=work["correction"], vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=2.0, vllm_importance_sampling_clip_min=None,
        use_vllm=True, vllm_mode="colocate", vllm_max_model_length=work["prompt_tokens"] + work["new_tokens"] + 8,
        vllm_gpu_memory_utilization=0.4, model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip


def run(work: dict[str, Any]) -> dict[str, Any]:
    """Trains and times it; a step lasts from the end of the one before it to its own."""
    prepare(work["threads"])
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.extras import profiling
    from trl.trainer.grpo_trainer import GRPOTrainer

    torch.set_num_threads(work["threads"])
    ends, rewards = [time.perf_counter()], []
    phases: dict[str, list[float]] = defaultdict(list)
    _collect_phases(profiling, phases)

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        found = [even_share(ids) for ids in completion_ids]
        rewards.append(sum(found) / len(found))
        return list(found)

    texts = prompt_texts(work["n_prompts"], work["prompt_tokens"])
    order = [text for step in range(1, work["steps"] + 1) for text in prompts_of_step(texts, step, work["prompts"], work["seed"])]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=work["model"], reward_funcs=reward, args=trainer_config(work, folder), callbacks=[Clock()],
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in order]),
        )  # fmt: skip
        trainer.train()
    logs = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
    return {
        "side": "trl",
        "seconds": [after - before for before, after in itertools.pairwise(ends)],
        "rewards": rewards,
        "lengths": [entry["completions/mean_length"] for entry in logs],
        "phases": phases,
    }


def _collect_phases(profiling: Any, phases: dict[str, list[float]]) -> None:
    """Records the times of TRL's profiling contexts, which TRL discards without a tracker."""
    from trl.trainer import grpo_trainer

    trainer_module: Any = grpo_trainer

    before = profiling.ProfilingContext

    class Noting(before):  # type: ignore[misc, valid-type]
        def __enter__(self) -> Any:
            self.noted = time.perf_counter()
            return super().__enter__()

        def __exit__(self, *error: Any) -> Any:
            phases[self.name].append(time.perf_counter() - self.noted)
            return super().__exit__(*error)

    def context(trainer: Any, name: str) -> Any:
        made = profiling_context(trainer, name)
        made.__class__ = Noting
        return made

    profiling_context = profiling.profiling_context
    trainer_module.profiling_context = context


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
