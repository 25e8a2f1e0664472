"""DPO, direct preference optimisation: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; as a weighted likelihood.

    D    = (c - c_ref) - (r - r_ref)         c, r: logprob of the chosen and the rejected side, summed over its tokens (or their mean)
    loss = -ln sigmoid(beta D)
    -d loss / d c = beta sigmoid(-beta D) = d loss / d r

At given weights the gradient of the loss is that of a likelihood in which each side has this number as its constant weight. So a step that first scores its
pairs and then trains on weighted sides takes the step of DPO, however its micro-batches are split.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PairScore:
    """A pair at the weights of now.

    Attributes:
        loss: -ln sigmoid(beta D).
        margin: beta D; above 0 the chosen side is preferred.
        weight: beta sigmoid(-beta D).
    """

    loss: float
    margin: float
    weight: float


def score_pair(chosen: float, rejected: float, chosen_ref: float, rejected_ref: float, beta: float) -> PairScore:
    """The four are logprobs of whole sides, summed or mean; references of 0 are reference-free."""
    margin = beta * ((chosen - chosen_ref) - (rejected - rejected_ref))
    # ln(1 + e^-m) without overflow on either side.
    loss = max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))
    sigmoid = 1 / (1 + math.exp(-abs(margin)))
    return PairScore(loss, margin, beta * (1 - sigmoid if margin > 0 else sigmoid))


def side_logprob(values: Sequence[float], mean: bool) -> float:
    """Of one side, from the logprobs of its tokens that are scored: their sum, or their mean."""
    return math.fsum(values) / (max(len(values), 1) if mean else 1)
