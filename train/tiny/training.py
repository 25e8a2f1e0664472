"""Supervised training of the tiny policy: Muon for the matrices, AdamW for the rest, bounded by steps."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from .logs import Example

# The learning rate is constant, then falls to zero over this last share of the steps.
DECAY_SHARE = 0.3
MAX_GRAD_NORM = 1.0


def train(
    model: Any,
    examples: Sequence[Example],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Minimises the mean negative log-likelihood of the masked tokens, in place, and returns the loss of each step, in nats per token.

    Every example is used once before one is used again.

    Args:
        on_step: Called after each step with the steps done and the loss.
    """
    rng = random.Random(seed)
    optimizers = muon_and_adamw(model, lr)
    order: list[int] = []
    losses = []
    model.train()
    for step in range(steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (steps - step) / (DECAY_SHARE * steps))
        if len(order) < batch:
            order = rng.sample(range(len(examples)), len(examples))
        losses.append(_step(model, optimizers, [examples[order.pop()] for _ in range(batch)]))
        if on_step:
            on_step(step + 1, losses[-1])
    return losses


def muon_and_adamw(model: Any, lr: float) -> list[Any]:
    """Muon for every two-dimensional weight except the embedding, AdamW for the others, both with the same learning rate.

    With Muon the model learns to copy within minutes; with AdamW alone it learned the JSON but did not copy.
    """
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, weight_decay=0.0),
    ]


def _step(model: Any, optimizers: list[Any], batch: list[Example]) -> float:
    import torch

    ids, mask = _pad(batch)
    # Padding is at the end, so the causal mask alone hides it from every token that counts.
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    learned = mask[:, 1:]
    loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), ids[:, 1:][learned])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _pad(batch: list[Example]) -> tuple[Any, Any]:
    """Token ids and mask, both [batch, longest], padded at the end with id 0 and False."""
    import torch

    longest = max(len(example.token_ids) for example in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        mask[row, : len(example.mask)] = torch.tensor(example.mask, dtype=torch.bool)
    return ids, mask
