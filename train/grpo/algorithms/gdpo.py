"""GDPO, rewards normalised apart: Liu et al. 2026, arXiv:2601.05242.

    z_ik = (w_k r_ik - mean) / (sd + eps)                    mean, sd: of component k within the group; 0 where the component has no spread there
    A_i  = sum over k of z_ik
    A_i <- (A_i - mean) / (sd + eps)                         mean, sd: over the batch's rollouts whose group has spread

GRPO normalises the sum of the components, so that rollouts which earn the same sum in different ways are equal; here each component counts by its own spread.
The loss of a token is GRPO's.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

REWARD = "reward"
"""Name of the component of a reward without components."""
SHAPING = "shaping"
"""Name of the component that penalties of grpo.reward_shaping make."""


def settings(max_length: int) -> dict[str, Any]:
    """The preset."""
    return {"grpo": {"normalize_components": True}}


def components(rows: Sequence[Mapping[str, Any]], rewards: Sequence[float]) -> dict[str, list[float]]:
    """Weighted components of each rollout's reward by name, parallel to the rollouts; NaN where a rollout lacks one or has no verdict.

    Components of weight 0 are measurements and no part. Of a rollout without any (another environment of a mixture), the reward is the only one. What
    shaping took off a reward is a component of its own.

    Args:
        rewards: Shaped rewards; NaN is no verdict.
    """
    parts = [
        {
            part["name"]: part["value"] * part["weight"]
            for part in row["reward_components"] or ()
            if part["weight"] and part["value"] is not None
        }
        for row in rows
    ]
    names = list(dict.fromkeys(name for found in parts for name in found))
    scored = [reward == reward for reward in rewards]
    if not names:
        return {REWARD: list(rewards)}
    for row, found in zip(rows, parts, strict=True):
        if not found and row["reward"] is not None:
            found[REWARD] = row["reward"]
    names = list(dict.fromkeys(name for found in parts for name in found))
    nan = float("nan")
    table = {
        name: [found.get(name, nan) if ok else nan for found, ok in zip(parts, scored, strict=True)] for name in names
    }
    taken = [reward - row["reward"] if ok else nan for row, reward, ok in zip(rows, rewards, scored, strict=True)]
    return table | ({SHAPING: taken} if any(abs(value) > 1e-6 for value in taken if value == value) else {})


def batch_normalized(values_B: "Tensor", flat_B: "Tensor", eps: float) -> "Tensor":
    """Mean 0 and deviation 1 over the rollouts of a batch whose group has spread. float64; NaN stays NaN, flat groups stay 0."""
    counted = ~values_B.isnan() & ~flat_B
    if int(counted.sum()) < 2:
        return values_B
    chosen = values_B[counted]
    found = values_B.clone()
    found[counted] = (chosen - chosen.mean()) / (chosen.std() + eps)
    return found
