"""TRL's learning curve: GRPOTrainer computes advantages, loss and update; a `rollout_func` plays our environment.

Model, tasks, engine, sampling and verdicts are the same as on our side, so that the curves differ by the training alone.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollhouse.benchmarks.grpo_curves_run import MAX_LENGTH, MAX_TOKENS, MAX_TURNS
from rollhouse.collect.episode import Episode, Slot, play_episode
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.task import Task
from rollhouse.train.grpo.prompts import prompts_of_step


@dataclass(frozen=True)
class Game:
    """An environment and the limits of its episodes."""

    environment: Any
    max_turns: int = MAX_TURNS
    max_tokens: int = MAX_TOKENS
    max_length: int = MAX_LENGTH


class Player:
    """Plays tasks with TRL's current weights, which are loaded into the engine first."""

    def __init__(self, base: Path, folder: Path, seed: int, game: Game) -> None:
        from rollhouse.policies.engines.cluster import ensure_ray
        from rollhouse.policies.engines.vllm_actor import open_vllm

        ensure_ray()
        self.game = game
        self.engine = open_vllm(base, max_model_len=game.max_length, seed=seed)
        self.policy = TokenPolicy(self.engine, ChatFormat.of(base), "trl")
        self.seed = seed
        self._weights = folder / "weights.safetensors"

    def play(self, model: Any, tasks: Sequence[Task], step: int) -> list[Episode]:
        """An episode a task; a task that comes several times is sampled several times."""
        from safetensors.torch import save_file

        tensors = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
        save_file(tensors, self._weights, metadata={"format": "pt"})
        return asyncio.run(self._play(tasks, step))

    async def _play(self, tasks: Sequence[Task], step: int) -> list[Episode]:
        await self.engine.load_weights(str(self._weights), step)
        seen: Counter[str] = Counter()
        episodes = []
        for number, task in enumerate(tasks):
            slot = Slot("trl", step, task, task.task_id, task.prompt_id, seen[task.task_id])
            seen[task.task_id] += 1
            sampling = Sampling(max_tokens=self.game.max_tokens, seed=(self.seed * 1000 + step) * 1000 + number)
            episodes.append(
                play_episode(self.game.environment, self.policy, slot, sampling, self.game.max_turns, 600.0)
            )
        return await asyncio.gather(*episodes)


def train_trl(arm: dict[str, Any], base: Path, folder: Path) -> dict[str, Any]:
    """The curve."""
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    torch.set_num_threads(1)
    game = Game(MiniEnvironment())
    player = Player(base, folder, arm["seed"], game)
    train = list(game.environment.tasks("train"))[: arm["n_prompts"]]
    held_out = list(game.environment.tasks("validation"))[: arm["val_tasks"]]
    tasks = {task.messages[-1].text: task for task in train}
    order = [task for step in range(1, arm["steps"] + 1) for task in prompts_of_step(train, step, arm["prompts"], arm["seed"])]  # fmt: skip
    validation: list[tuple[int, float]] = []
    rewards: list[float] = []

    def play(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        chosen = [tasks[prompt[-1]["content"]] for prompt in prompts]
        episodes = player.play(trainer.model, chosen, trainer.state.global_step)
        batch = as_trl(episodes)
        rewards.append(sum(batch["verdict"]) / len(episodes))
        return batch

    def validate(model: Any, step: int) -> None:
        episodes = player.play(model, held_out, 10_000 + step)
        validation.append((step, sum(bool(episode.rollout.passed) for episode in episodes) / len(episodes)))

    class Validate(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            validate(model, 0)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            if state.global_step % arm["val_period"] == 0:
                validate(model, state.global_step)

    trainer = GRPOTrainer(
        model=str(base),
        reward_funcs=lambda verdict, **columns: verdict,
        args=trainer_config(arm, folder),
        rollout_func=play,
        callbacks=[Validate()],
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": task.messages[-1].text}]} for task in order]),
    )  # fmt: skip
    trainer.train()
    player.engine.close()
    return {"validation": validation, "rewards": rewards, "measures": {}}


def as_trl(episodes: Sequence[Episode]) -> dict[str, list[Any]]:
    """What a `rollout_func` returns for episodes: tokens, the mask of sampled ones, logprobs, and the reward as the column `verdict`."""
    rollouts = [episode.rollout for episode in episodes]
    return {
        "prompt_ids": [rollout.prompt_token_ids for rollout in rollouts],
        "completion_ids": [rollout.token_ids for rollout in rollouts],
        "env_mask": [rollout.loss_mask for rollout in rollouts],
        "logprobs": [spread(rollout.logprobs or [], rollout.loss_mask or []) for rollout in rollouts],
        "verdict": [rollout.reward or 0.0 for rollout in rollouts],
    }


def spread(logprobs: Sequence[float], mask: Sequence[int]) -> list[float]:
    """Logprobs of sampled tokens at their places; 0 where the environment wrote."""
    values = iter(logprobs)
    return [next(values) if sampled else 0.0 for sampled in mask]


def trainer_config(arm: dict[str, Any], folder: Path, micro: int = 16) -> Any:
    """The same algorithm as ours: group advantages, token mean, clip at 0.2, no KL, a batch used once. `micro` sequences lie in a micro-batch."""
    from trl.trainer.grpo_config import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder / "trl"), report_to="none", save_strategy="no", disable_tqdm=True, seed=arm["seed"],
        use_cpu=True, bf16=False, gradient_checkpointing=False, max_steps=arm["steps"], shuffle_dataset=False,
        per_device_train_batch_size=micro, gradient_accumulation_steps=arm["prompts"] * arm["group"] // micro,
        num_generations=arm["group"], max_completion_length=MAX_LENGTH, temperature=1.0,
        learning_rate=arm["lr"], lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, adam_beta2=0.999,
        beta=0.0, loss_type="dapo", scale_rewards="group", epsilon=0.2, epsilon_high=0.2, num_iterations=1,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
