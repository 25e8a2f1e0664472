"""The task of benchmarks/grpo.py: a random model, prompts of about 123 tokens, and a reward that a random model can raise.

The reward is the share of sampled tokens whose id is even. It needs no skill, so a few steps move it, and it costs nothing to compute.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollhouse.environments.types import Done
from rollhouse.policies.types import Turn
from rollhouse.store.messages import Message
from rollhouse.store.task import Score, Task

WORDS = [f"w{number:04d}" for number in range(2048)]
PROMPT_OVERHEAD = 8  # tokens that the chat template puts around a message


@dataclass(frozen=True)
class Shape:
    """A Qwen3 model. The default has 2.9 million parameters; its vocabulary is 2,048 tokens."""

    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64


def write_model(folder: Path, dtype: str = "float32", shape: Shape | None = None, vocabulary: int = 2048) -> Path:
    """A model folder with fresh weights and a word tokenizer; `dtype` is what vLLM computes in."""
    import torch
    from rollhouse.train.tiny.tokenizer import build_tokenizer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = build_tokenizer()
    tokenizer.add_tokens(WORDS[: max(0, vocabulary - len(tokenizer))])  # ids above decode to nothing
    torch.manual_seed(0)
    sizes = vars(shape or Shape())
    config = Qwen3Config(
        vocab_size=vocabulary, pad_token_id=0, eos_token_id=2, bos_token_id=None, max_position_embeddings=4096,
        tie_word_embeddings=True, architectures=["Qwen3ForCausalLM"], **sizes,
    )  # fmt: skip
    model: Any = Qwen3ForCausalLM(config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompt_texts(count: int, n_tokens: int = 123) -> list[str]:
    """Prompts of `n_tokens` tokens each, chat template included."""
    draw = random.Random("prompts")
    return ["".join(draw.choices(WORDS[:1000], k=n_tokens - PROMPT_OVERHEAD)) for _ in range(count)]


def even_share(token_ids: Sequence[int]) -> float:
    """The reward."""
    return sum(number % 2 == 0 for number in token_ids) / max(1, len(token_ids))


class EvenTokens:
    """The environment for our side."""

    name = "even-tokens"

    def __init__(self, count: int = 64, n_tokens: int = 123) -> None:
        self._prompts = prompt_texts(count, n_tokens)

    def tasks(self, split: str) -> Iterable[Task]:
        """One user message each; `split` is of no importance."""
        for number, text in enumerate(self._prompts):
            yield Task(self.name, (Message("user", text),), (), ground_truth=[], split=split, source_key=str(number))

    def start(self, task: Task) -> "EvenSession":
        """See Environment."""
        return EvenSession()


class EvenSession:
    """One answer."""

    def __init__(self) -> None:
        self._reward = 0.0

    async def step(self, turn: Turn) -> Done:
        """See Session."""
        self._reward = even_share(turn.token_ids or ())
        return Done(turn.stop_reason)

    def verify(self) -> Score:
        """See Session."""
        return Score(self._reward, False, "even-tokens", "1")

    def close(self) -> None:
        """Nothing is held."""
