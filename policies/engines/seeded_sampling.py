"""One uniform number per seeded request and token; vLLM on a CPU draws one per entry of the vocabulary.

Imported by every vLLM worker before its model loads. Rollouts all have seeds, and vLLM draws the noise of seeded requests row by row: a third
of the time of a step of a small model. The inverse of the distribution function needs one draw from the same generator. On a GPU nothing is patched.
"""

from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p

_unseeded = TopKTopPSampler.forward_cpu


def sample_seeded(probabilities: torch.Tensor, generators: dict[int, torch.Generator]) -> torch.Tensor:
    """A token of each row: the first whose cumulated probability exceeds a uniform draw.

    Args:
        probabilities: float [rows, vocabulary], not negative; a token of probability zero is never drawn.
        generators: By row; rows without one draw from torch's own.

    Returns int64 [rows].
    """
    # In float64: in float32 the draws of a large vocabulary would be too coarse for its rare tokens.
    below = probabilities.cumsum(dim=-1, dtype=torch.float64)
    drawn = torch.rand(len(probabilities), 1, dtype=torch.float64)
    for row, generator in generators.items():
        drawn[row].uniform_(generator=generator)
    total = below[:, -1:]
    drawn = torch.minimum(drawn * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(below, drawn, right=True).squeeze(-1)
    return found.clamp(max=probabilities.shape[-1] - 1)  # where all is NaN, which the check of the weights reports


def _forward(
    self: Any,
    logits: torch.Tensor,
    generators: dict[int, torch.Generator],
    k: torch.Tensor | None,
    p: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if not generators or self.logprobs_mode != "processed_logprobs":
        return _unseeded(self, logits, generators, k, p)
    logprobs = apply_top_k_top_p(logits, k, p).log_softmax(dim=-1, dtype=torch.float32)
    return sample_seeded(logprobs.exp(), generators), logprobs


if current_platform.is_cpu():
    TopKTopPSampler.forward_cpu = _forward  # type: ignore[method-assign]
