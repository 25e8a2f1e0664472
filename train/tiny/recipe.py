"""The recipe of the tiny base policy: it learns from the script's good rollouts, then clones its imperfect ones."""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ...environments.workplace_mini import MiniEnvironment
from ...store.ids import hash_id
from .logs import Example, compact, script_rollout, whole
from .model import EMBEDDING_STD, RESIDUAL_SCALE, SHAPE, build_model
from .training import train

Progress = Callable[[int, int, str], None]
"""Called with steps done, total steps, and a note to show."""


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        examples: `compact` (one short sequence per turn), `whole` (whole rollouts) or `logs` (whole rollouts of the imperfect script).
    """

    examples: str
    steps: int
    batch: int
    lr: float


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on, besides tokenizer, template and shape.

    Attributes:
        task_seed: Seed of the environment whose train tasks are used.
        mistake_rate: Share of rollouts in which the imperfect script omits its last call.
    """

    stages: tuple[Stage, ...]
    tasks: int
    task_seed: int
    mistake_rate: float
    seed: int


RECIPE = Recipe(
    stages=(
        Stage("compact", steps=320, batch=16, lr=2e-3),
        Stage("whole", steps=120, batch=8, lr=2e-3),
        Stage("logs", steps=60, batch=8, lr=1e-3),
    ),
    tasks=3200,
    task_seed=1_000_003,
    mistake_rate=0.6,
    seed=0,
)


def recipe_hash(recipe: Recipe = RECIPE, *, tokenizer: Any) -> str:
    """Identifies the recipe: a hash of its numbers, the model's shape, the tokenizer, and a sample of the data that covers all nine kinds of tasks."""
    tasks = MiniEnvironment(recipe.task_seed, n_train=27).tasks("train")
    sample = [whole(tokenizer, task, script_rollout(task)).token_ids for task in tasks]
    return hash_id(
        asdict(recipe),
        {**SHAPE, "embedding_std": EMBEDDING_STD, "residual_scale": RESIDUAL_SCALE},
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        sample,
    )


def train_base(tokenizer: Any, recipe: Recipe = RECIPE, progress: Progress | None = None) -> Any:
    """Trains new weights by the recipe and returns the model; takes minutes on one core."""
    model = build_model(len(tokenizer), recipe.seed)
    total, done = sum(stage.steps for stage in recipe.stages), 0
    for number, stage in enumerate(recipe.stages):

        def on_step(step: int, loss: float, before: int = done, name: str = stage.examples) -> None:
            if progress:
                progress(before + step, total, f"{name}, loss {loss:.2f}")

        train(
            model,
            stage_examples(recipe, stage, tokenizer),
            steps=stage.steps,
            batch=stage.batch,
            lr=stage.lr,
            seed=recipe.seed + number,
            on_step=on_step,
        )
        done += stage.steps
    return model.eval()


def stage_examples(recipe: Recipe, stage: Stage, tokenizer: Any) -> list[Example]:
    """The stage's sequences, in the order of the tasks."""
    tasks = list(MiniEnvironment(recipe.task_seed, n_train=recipe.tasks).tasks("train"))
    if stage.examples == "compact":
        return [example for task in tasks for example in compact(tokenizer, task, script_rollout(task))]
    rng = random.Random(recipe.seed)
    rate = recipe.mistake_rate if stage.examples == "logs" else 0.0
    return [whole(tokenizer, task, script_rollout(task, omit_last=rng.random() < rate)) for task in tasks]
