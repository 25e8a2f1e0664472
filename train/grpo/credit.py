"""From the compared rewards of a step's episodes to their advantages, as the configuration has them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .advantages import ZERO_STD, GroupAdvantages, group_advantages, turn_group_advantages
from .algorithms.gdpo import batch_normalized, components
from .algorithms.grpo import EPS
from .config import GrpoConfig
from .custom import AdvantageInputs, checked_advantages, load_advantage


def credited(
    rollouts: Sequence[Mapping[str, Any]], rewards_B: Tensor, tokens_B: Tensor, config: GrpoConfig
) -> tuple[GroupAdvantages, list[tuple[float, ...] | None]]:
    """The advantages of episodes, and of their turns where grpo.turn_rewards is `turn` (None elsewhere).

    Args:
        rollouts: The main rows of the episodes.
        rewards_B: [B] float32: what is compared; NaN for an episode that has no part in its group.
        tokens_B: [B] int64: sampled tokens of each episode.
    """
    if config.grpo.turn_rewards == "turn":
        return _by_turn(rollouts, rewards_B, config.grpo.normalize_rewards)
    return _advantages(rollouts, rewards_B, tokens_B, config), [None] * len(rollouts)


def _by_turn(
    rollouts: Sequence[Mapping[str, Any]], rewards_B: Tensor, normalize: bool
) -> tuple[GroupAdvantages, list[tuple[float, ...] | None]]:
    """Advantages of the turns of each rollout, and their means; what shaping took off a rollout's reward is taken off its last turn's."""
    turns: list[list[float] | None] = []
    for row, reward in zip(rollouts, rewards_B, strict=True):
        own = None if reward.isnan() else list(row["turn_rewards"])
        if own:
            own[-1] += float(reward - torch.tensor(math.fsum(own), dtype=torch.float32))
        turns.append(own)
    return turn_group_advantages(turns, _group_numbers(rollouts), normalize=normalize)


def _group_numbers(rollouts: Sequence[Mapping[str, Any]]) -> Tensor:
    """[B] int64 from 0: the group of each rollout."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(row["group_id"] for row in rollouts))}
    return torch.tensor([numbers[row["group_id"]] for row in rollouts], dtype=torch.int64)


def _advantages(
    rollouts: Sequence[Mapping[str, Any]], rewards_B: Tensor, tokens_B: Tensor, config: GrpoConfig
) -> GroupAdvantages:
    """The advantages of the configuration, or of the function that grpo.advantage names, of the main rows of episodes."""
    grpo = config.grpo
    groups_B = _group_numbers(rollouts)
    found = group_advantages(
        rewards_B, groups_B, normalize=grpo.normalize_rewards, leave_one_out=grpo.use_leave_one_out_baseline
    )
    if grpo.normalize_components:
        found = _decoupled(rollouts, rewards_B, groups_B, found)
    function = load_advantage(grpo.advantage)
    if function is None:
        return found
    values_B, flat_B = found.values_B.clone(), found.zero_std_B.clone()
    truncated_B = torch.tensor([row["status"] == "truncated" for row in rollouts], dtype=torch.bool)
    for number in range(int(groups_B.max()) + 1):
        members = ((groups_B == number) & ~rewards_B.isnan()).nonzero().squeeze(-1)
        if len(members) < 2:
            continue
        group = AdvantageInputs(rewards_B[members].double(), tokens_B[members], truncated_B[members])
        values_B[members] = checked_advantages(function, str(grpo.advantage), group)
        flat_B[members] = bool((values_B[members].abs() <= ZERO_STD).all())
    return GroupAdvantages(torch.where(flat_B & ~values_B.isnan(), 0.0, values_B), flat_B, found.sizes_B)


def _decoupled(
    rollouts: Sequence[Mapping[str, Any]], rewards_B: Tensor, groups_B: Tensor, whole: GroupAdvantages
) -> GroupAdvantages:
    """Advantages with the components of the reward normalised apart; `whole` are those of the reward, for who is scored."""
    parts = components(rollouts, rewards_B.tolist())
    found = [group_advantages(torch.tensor(values, dtype=torch.float64), groups_B) for values in parts.values()]
    flat_B = torch.stack([part.zero_std_B for part in found]).all(0)
    values_B = (
        torch.stack([part.values_B.nan_to_num(0.0) for part in found]).sum(0).masked_fill(rewards_B.isnan(), torch.nan)
    )
    return GroupAdvantages(batch_normalized(values_B, flat_B, EPS), flat_B, whole.sizes_B)
