"""A model small enough for exact comparisons, and batches of random samples for it."""

import random
from pathlib import Path

import pytest
from rollhouse.train.grpo.batch import Sample

VOCABULARY = 48


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

    def make(n: int, seed: int = 0) -> list[Sample]:
        rng = random.Random(seed)
        samples = []
        for number in range(n):
            mask: list[int] = []
            for _ in range(rng.randint(1, 3)):
                mask += [1] * rng.randint(2, 8) + [0] * rng.randint(0, 5)
            samples.append(
                Sample(
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
