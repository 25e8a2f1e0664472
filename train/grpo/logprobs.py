"""Logprobs of sampled tokens under the learner's model, computed at the sampled positions only."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# At most this many logits are held at once (512 MiB in float32), so that a large vocabulary does not decide the batch size.
MAX_LOGITS = 2**27


def token_logprobs(
    model: Any, input_ids: Tensor, mask: Tensor, temperature: float = 1.0, max_logits: int = MAX_LOGITS
) -> tuple[Tensor, Tensor]:
    """Logprob and entropy at each position whose next token was sampled.

    The output layer runs on those positions alone (prompts and tool results are most of a multi-turn sequence), and in
    chunks whose activations are recomputed in the backward pass when there are more than `max_logits` logits.

    Args:
        model: A transformers causal language model.
        input_ids: [B, T + 1] token ids padded on the right. Causal attention never looks ahead, so the padding
            needs no attention mask.
        mask: [B, T] bool, True where token t + 1 was sampled.
        temperature: Logits are divided by it, as the engine did when it sampled.

    Returns:
        logprobs [B, T] with gradient and entropies [B, T] without, float32, both 0 where the mask is False.
    """
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(input_ids=input_ids[:, :-1], use_cache=False).last_hidden_state[mask]
    targets = input_ids[:, 1:][mask]
    head = model.get_output_embeddings()

    size = max(1, max_logits // head.weight.shape[0])
    if len(targets) <= size:
        picked, entropies = _pick(head, hidden, targets, temperature)
    else:
        chunks = [
            checkpoint(_pick, head, h, t, temperature, use_reentrant=False)
            for h, t in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        picked, entropies = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    empty = torch.zeros(mask.shape, dtype=torch.float32, device=input_ids.device)
    return empty.masked_scatter(mask, picked), empty.masked_scatter(mask, entropies)


def _pick(head: Any, hidden_N: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logprobs of the targets and entropies, both [N], in float32 whatever the model computes in."""
    logits = head(hidden_N).float() / temperature
    normaliser = logits.logsumexp(-1)
    with torch.no_grad():
        entropies = normaliser - ((logits - normaliser.unsqueeze(-1)).exp() * logits).sum(-1)
    return logits.gather(-1, targets_N.unsqueeze(-1)).squeeze(-1) - normaliser, entropies
