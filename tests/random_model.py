"""A tiny model with random weights, which suffices for most tests of tokens."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = (
    "{% for tool in tools or [] %}{{ '<|im_start|>system\n' + tool.function.name + '<|im_end|>\n' }}{% endfor %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + message.role + '\n' + (message.content or '') }}"
    "{% for call in message.tool_calls or [] %}"
    '{{ \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}"
    "{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer(template: str = TEMPLATE) -> Any:
    """One token a byte, ChatML marks, and the tool tags as added tokens that are not special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tags = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
    tokens = [*special, *tags, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )


def random_model(folder: Path, seed: int) -> Path:
    """A model folder with random weights and the byte tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    shape: Any = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    config = Qwen3Config(
        vocab_size=263, hidden_size=64, intermediate_size=128, max_position_embeddings=2048, tie_word_embeddings=True,
        eos_token_id=2, pad_token_id=0, bos_token_id=None, initializer_range=0.2, **shape,
    )  # fmt: skip
    Qwen3ForCausalLM(config).float().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return folder


@lru_cache(maxsize=4)
def reference_model(folder: Path) -> Any:
    """The folder's model in transformers, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def reference_logprobs(folder: Path, token_ids: list[int], temperature: float = 1.0) -> list[float]:
    """transformers' result in float32: log-probability of each token given those before it; 0.0 for the first."""
    import torch

    with torch.no_grad():
        logits = reference_model(folder)(torch.tensor([token_ids])).logits[0] / temperature
    picked = logits[:-1].log_softmax(-1).gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0]
    return [0.0, *picked.tolist()]


@pytest.fixture(scope="session")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one shape and different weights."""
    root = tmp_path_factory.mktemp("models")
    return random_model(root / "a", 0), random_model(root / "b", 1)
