"""Attention of rows that hold one prompt and several answers: each answer sees the prompt and itself, and no pair of others is computed.

A mask over the whole row would give the same numbers, and the kernels would compute all pairs of answers before throwing them away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NAME = "rollhouse_shared"


@dataclass(frozen=True)
class Answers:
    """Where the K answers lie in R rows of S positions.

    Attributes:
        prompt: Positions of the longest prompt, P.
        rows: [K] int64: the row of each answer.
        places: [K, L] int64: r * S + s of its positions; 0 at padding.
        valid: [K, L] bool: False at padding.
        mask: [K, 1, L, P + L] bool: what each position sees of its prompt and of its answer.
    """

    prompt: int
    rows: Tensor
    places: Tensor
    valid: Tensor
    mask: Tensor

    def to(self, device: str) -> "Answers":
        """With its tensors there."""
        return Answers(self.prompt, *(tensor.to(device) for tensor in (self.rows, self.places, self.valid, self.mask)))


def find_answers(spans: Sequence[tuple[int, int, int, int]], width: int) -> Answers | None:
    """From (row, tokens of its prompt, first position, end) of each answer; `width` is S. None when all answers are empty."""
    longest = max((end - start for _, _, start, end in spans), default=0)
    if not longest:
        return None
    rows, prompts, starts, ends = (torch.tensor(column) for column in zip(*spans, strict=True))
    prompt = int(prompts.max())
    offsets = torch.arange(longest)
    valid = offsets < (ends - starts)[:, None]
    places = ((rows * width + starts)[:, None] + offsets) * valid
    seen = (torch.arange(prompt) < prompts[:, None])[:, None, :].expand(-1, longest, -1)
    own = torch.ones(longest, longest, dtype=torch.bool).tril().expand(len(spans), -1, -1)
    return Answers(prompt, rows, places, valid, torch.cat([seen, own], -1).unsqueeze(1))


def use_shared_attention(model: Any) -> None:
    """Gives a transformers model this attention; rows without answers are computed as by sdpa. A model that cannot have it stays as it is."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)
    model.set_attn_implementation(NAME)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, answers: Answers | None = None, **options: Any
) -> tuple[Tensor, None]:  # fmt: skip
    """As transformers calls it: query [R, H, S, D], key and value with H or fewer heads; returns [R, S, H, D]."""
    if answers is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # The backward pass of a CPU's attention takes longer in bfloat16 than in float32.
        with torch.autocast("cpu", enabled=False):
            found, _ = attention(module, query.float(), key.float(), value.float(), attention_mask, answers, **options)
        return found.to(torch.bfloat16), None
    scale, repeats = options.get("scaling"), query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    n = answers.prompt
    # Positions of a row behind a shorter prompt are computed here too, and replaced below.
    first = F.scaled_dot_product_attention(query[:, :, :n], key[:, :, :n], value[:, :, :n], is_causal=True, scale=scale)
    own = (_of_answers(tensor, answers) for tensor in (query, key, value))
    prompts = (tensor[:, :, :n][answers.rows] for tensor in (key, value))
    query_K, key_K, value_K = own
    keys, values = (torch.cat(pair, 2) for pair in zip(prompts, (key_K, value_K), strict=True))
    found = F.scaled_dot_product_attention(query_K, keys, values, attn_mask=answers.mask, scale=scale)
    whole = F.pad(first, (0, 0, 0, query.shape[2] - n)).transpose(1, 2).contiguous()
    places = answers.places[answers.valid]
    result = whole.flatten(0, 1).index_copy(0, places, found.transpose(1, 2)[answers.valid].to(whole.dtype))
    return result.view(whole.shape), None


def _of_answers(tensor: Tensor, answers: Answers) -> Tensor:
    """From [R, H, S, D] the positions of the answers, [K, H, L, D]."""
    return tensor.transpose(1, 2).flatten(0, 1)[answers.places].transpose(1, 2)
