"""A model small enough for exact comparisons, and batches of random samples for it."""

import random
from pathlib import Path
from typing import Any

import pytest
from rollhouse.train.grpo.learner.batch import TrainSample

VOCABULARY = 48
PROMPTS, GROUP = 6, 6
"""Of a step of the loop's tests."""


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Qwen3 of 2 layers, width 32, tied embeddings, float32."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    config.initializer_range = 0.2
    folder = tmp_path_factory.mktemp("models") / "random"
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def make_samples():
    """`make_samples(n, seed)`: n multi-turn samples of unequal lengths with made-up engine logprobs."""

    def make(n: int, seed: int = 0) -> list[TrainSample]:
        rng = random.Random(seed)
        samples = []
        for number in range(n):
            mask: list[int] = []
            for _ in range(rng.randint(1, 3)):
                mask += [1] * rng.randint(2, 8) + [0] * rng.randint(0, 5)
            samples.append(
                TrainSample(
                    rollout_id=f"rollout-{number}",
                    prompt_ids=[rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 10))],
                    token_ids=[rng.randrange(VOCABULARY) for _ in mask],
                    loss_mask=mask,
                    engine_logprobs=[rng.uniform(-6, -1) for _ in range(sum(mask))],
                    advantage=rng.uniform(-2, 2),
                )
            )
        return samples

    return make


@pytest.fixture(scope="module")
def prompt_store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store with the prompt set `mixed@1`: tasks that an unreliable script solves now and then."""
    from rollhouse.collect.runner import collect
    from rollhouse.environments.workplace_mini import MiniEnvironment
    from rollhouse.policies.scripted import ScriptedPolicy
    from rollhouse.store.lance_store import LanceStore
    from rollhouse.store.runs import start_run
    from rollhouse.store.snapshots import create_snapshot
    from rollhouse.transform.build import build_grpo

    store = LanceStore.create(tmp_path_factory.mktemp("grpo") / "store")
    environment = MiniEnvironment(n_train=24)
    with start_run(store, "collect", "script") as run:
        policy = ScriptedPolicy(mistake_rate=0.5)
        collect(store, run, environment, policy, environment.tasks("train"), num_repeats=4)
    create_snapshot(store, "s1")
    assert build_grpo(store, "mixed", "s1").n_rows > 2 * PROMPTS
    return store


@pytest.fixture(scope="module")
def configure(prompt_store: Any, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`configure(run=…, section__key=…)`: settings of a small run over `mixed`; inner sections are `section.inner__key`."""
    from rollhouse.train.grpo.config import GrpoConfig

    folder = tmp_path_factory.mktemp("checkpoints")

    def make(**changes: Any) -> GrpoConfig:
        values: dict[str, Any] = {
            "run": "online",
            "dataset": "mixed",
            "policy": {
                "model_name": str(tiny_base),
                "max_total_sequence_length": 512,
                "train_mb_tokens": 1024,
                "optimizer": {"lr": 1e-4},
                "generation": {"max_new_tokens": 64, "weight_sync": "file"},
            },
            "grpo": {"num_prompts_per_step": PROMPTS, "num_generations_per_prompt": GROUP, "max_num_steps": 2},
            "checkpointing": {"checkpoint_dir": str(folder), "save_period": 1},
        }
        for key, value in changes.items():
            section, _, name = key.partition("__")
            inner = values
            if name:
                for part in section.split("."):
                    inner = inner.setdefault(part, {})
            inner[name or section] = value
        return GrpoConfig.model_validate(values)

    return make


@pytest.fixture(scope="module")
def train_here(prompt_store: Any) -> Any:
    """`train_here(config, …)`: a run on `prompt_store` in this process; see here.py."""
    from functools import partial

    from .here import train_here

    return partial(train_here, prompt_store)
