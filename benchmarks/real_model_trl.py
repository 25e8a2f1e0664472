"""TRL's side of benchmarks/real_model.py: GRPOTrainer on the prompts of our run, step by step.

    python benchmarks/real_model_trl.py ARM-AS-JSON

Prints one line of JSON: validation before and after, mean reward, pass rate and seconds of each step. A step lasts from the end of the one before it
(of the first validation) to its own; the rollouts of a step are in it.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rollhouse.benchmarks.grpo_curves_trl import Game, Player, as_trl, trainer_config
from rollhouse.environments.registry import load_environment

ENVIRONMENT = Path(__file__).resolve().parents[1] / "examples" / "running_sums.py"


def train(arm: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The run."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_trainer import GRPOTrainer

    limits = {name: arm[name] for name in ("max_turns", "max_tokens", "max_length")}
    game = Game(load_environment(str(ENVIRONMENT)), **limits)
    player = Player(Path(arm["model"]), folder, arm["seed"], game)
    tasks = {str(number): task for number, task in enumerate(game.environment.tasks("train"))}
    by_truth = {json.dumps(task.ground_truth): name for name, task in tasks.items()}
    order = [by_truth[json.dumps(json.loads(truth))] for step in arm["order"] for truth in step]
    held_out = list(game.environment.tasks("validation"))[: arm["val_tasks"]]
    found: dict[str, Any] = {"train/reward": [], "train/pass_rate": [], "time/step": []}

    def play(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        episodes = player.play(trainer.model, [tasks[prompt[-1]["content"]] for prompt in prompts], trainer.state.global_step)  # fmt: skip
        batch = as_trl(episodes)
        found["train/reward"].append(round(sum(batch["verdict"]) / len(episodes), 5))
        found["train/pass_rate"].append(pass_rate(episodes))
        return batch

    def validate(model: Any, step: int) -> float:
        return pass_rate(player.play(model, held_out, 10_000 + step))

    class Clock(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            found["before"] = validate(model, 0)
            self.since = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            found["time/step"].append(round(time.perf_counter() - self.since, 3))
            if state.global_step == arm["steps"]:
                found["after"] = validate(model, state.global_step)
            self.since = time.perf_counter()

    trainer = GRPOTrainer(
        model=arm["model"],
        reward_funcs=lambda verdict, **columns: verdict,
        args=trainer_config(arm, folder, arm["group"]),  # a group at a time: its logits take 2 GB
        rollout_func=play,
        callbacks=[Clock()],
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": name}]} for name in order]),
    )  # fmt: skip
    trainer.train()
    player.engine.close()
    return found


def pass_rate(episodes: list[Any]) -> float:
    """Share of the episodes that passed."""
    return round(sum(bool(episode.rollout.passed) for episode in episodes) / len(episodes), 5)


if __name__ == "__main__":
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as our learner
    arm = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="rollhouse-trl-") as scratch:
        result = train(arm, Path(scratch))
    print(json.dumps({name: value for name, value in arm.items() if name in ("side", "seed", "steps")} | result))
