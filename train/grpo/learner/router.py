"""Mixtures of experts: the loss that keeps their routers balanced, and how evenly they spread tokens.

The loss is the architecture's own (transformers' `load_balancing_loss_func`, after Fedus et al. 2021, arXiv:2101.03961): with E experts of which K are chosen,
E * sum over experts of (share of choices) * (mean router probability), over all layers together; K for an even router. It is taken over the positions that
predict sampled tokens, and a step's is the mean over its micro-batches, each weighted by its sampled tokens.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....base.errors import ConfigError


@dataclass(frozen=True)
class Router:
    """The routers of a model.

    Attributes:
        chosen: Experts that a token goes through in a layer.
        coefficient: The loss's, 0 for none.
        balance: From logits [N, E] of each layer, experts and `chosen` to the loss.
    """

    chosen: int
    coefficient: float
    balance: Callable[..., Tensor]

    def loss(self, logits: Sequence[Tensor]) -> Tensor:
        """Of one micro-batch: a scalar with gradient."""
        return self.balance(tuple(logits), logits[0].shape[-1], self.chosen)

    @torch.no_grad()
    def loads(self, logits: Sequence[Tensor]) -> dict[str, float]:
        """The busiest and the idlest expert's share of the choices, as multiples of an even share; means over layers."""
        most, least = [], []
        for layer in logits:
            counts = torch.bincount(layer.topk(self.chosen, -1).indices.flatten(), minlength=layer.shape[-1])
            shares = counts.double() / counts.sum() * layer.shape[-1]
            most.append(float(shares.max()))
            least.append(float(shares.min()))
        return {"moe/load_max": sum(most) / len(most), "moe/load_min": sum(least) / len(least)}


def router_of(model: Any, coefficient: float | None, ranks: int) -> Router | None:
    """The model's routers; None for a model without, or with routers that are balanced by a bias and not by a loss.

    Args:
        coefficient: policy.router_loss; None is the model's own where its configuration enables the loss (`output_router_logits`).

    Raises ConfigError for a loss that the model does not have or that several ranks cannot compute.
    """
    config = model.config.get_text_config()
    balance = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    biased = any(name.endswith("e_score_correction_bias") for name in model.state_dict())
    if balance is None or not chosen or biased:
        if coefficient:
            raise ConfigError(f"A {type(model).__name__} has no router loss.", "Leave policy.router_loss out.")
        return None
    own = getattr(config, "router_aux_loss_coef", 0.0) if getattr(config, "output_router_logits", False) else 0.0
    router = Router(chosen, own if coefficient is None else coefficient, balance)
    if router.coefficient and ranks > 1:
        raise ConfigError(
            f"The router loss ({router.coefficient:g}) of a {type(model).__name__} is computed by one learner rank only.",
            "Set policy.router_loss=0 or cluster.learner_ranks=1.",
        )
    return router
