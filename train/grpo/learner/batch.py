"""What one optimizer step trains on: samples, their split into micro-batches, and the tensors of one micro-batch."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainSample:
    """One rollout as the learner sees it.

    Attributes:
        rollout_id: The rollout, "" for a sequence that is only scored.
        prompt_ids: The rendered prompt.
        token_ids: Everything after it, tool results included.
        loss_mask: Parallel to token_ids: 1 where the policy sampled the token.
        engine_logprobs: One per sampled token, in order, from the engine.
        advantage: The rollout's, shared by its sampled tokens.
        share: Its share of the sampled tokens that are trained on of its episode; 1 for an episode of one row. A loss that weighs every episode
            the same weighs the row by it.
        turn_advantages: Of each turn, in place of `advantage`; None when it holds for all tokens. A turn's tokens are a run of ones in loss_mask.
        teacher_logprobs: Parallel to engine_logprobs; None without a teacher.
        routes: Experts that the engine chose, as pack_routes writes them; None when they are not known.
    """

    rollout_id: str
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    loss_mask: Sequence[int]
    engine_logprobs: Sequence[float]
    advantage: float = 0.0
    share: float = 1.0
    turn_advantages: Sequence[float] | None = None
    teacher_logprobs: Sequence[float] | None = None
    routes: str | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and answer together."""
        return len(self.prompt_ids) + len(self.token_ids)

    @property
    def n_sampled(self) -> int:
        """Tokens that are trained on."""
        return sum(self.loss_mask)


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of B samples, padded on the right to the longest, T + 1 tokens.

    Attributes:
        input_ids: [B, T + 1] int64.
        mask: [B, T] bool: True where token t + 1 was sampled.
        engine_logprobs: [B, T] float32, 0 where the mask is False.
        advantages: [B] float32.
        shares: [B] float32.
        token_advantages: [B, T] float32, 0 where the mask is False; None where no sample has advantages by turn.
        teacher_logprobs: [B, T] float32, 0 where the mask is False; None without a teacher.
    """

    input_ids: Tensor
    mask: Tensor
    engine_logprobs: Tensor
    advantages: Tensor
    shares: Tensor
    token_advantages: Tensor | None = None
    teacher_logprobs: Tensor | None = None


def split_micro_batches(
    lengths: Sequence[int], token_budget: int, groups: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Positions of `lengths` in micro-batches, the longest sequences first.

    A micro-batch of k sequences costs k * (its longest) padded tokens, at most `token_budget`; a sequence longer than
    the budget stands alone. Sorting by length keeps the padding small, and starting with the longest shows at once
    whether memory suffices.

    Args:
        groups: Parallel to lengths: sequences of one group are kept in one micro-batch where they fit, since those that share a prompt
            are computed behind it; None is each on its own.
    """
    members: dict[Hashable, list[int]] = {}
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        members.setdefault(position if groups is None else groups[position], []).append(position)
    batches: list[list[int]] = []
    longest = 0  # of the last micro-batch
    for group in members.values():
        fits = batches and (len(batches[-1]) + len(group)) * max(longest, lengths[group[0]]) <= token_budget
        if not fits:
            batches, longest = [*batches, []], 0
        for position in group:
            if batches[-1] and (len(batches[-1]) + 1) * max(longest, lengths[position]) > token_budget:
                batches, longest = [*batches, []], 0
            batches[-1].append(position)
            longest = max(longest, lengths[position])
    return batches


def collate(samples: Sequence[TrainSample], device: str = "cpu") -> MicroBatch:
    """The samples as tensors. Raises ValueError when a sample's lists do not fit each other."""
    width = max(sample.length for sample in samples)
    input_ids = torch.zeros(len(samples), width, dtype=torch.int64)
    mask = torch.zeros(len(samples), width - 1, dtype=torch.bool)
    engine_logprobs = torch.zeros(len(samples), width - 1, dtype=torch.float32)
    for row, sample in enumerate(samples):
        _check(sample)
        start, end = len(sample.prompt_ids), sample.length
        input_ids[row, :end] = torch.tensor([*sample.prompt_ids, *sample.token_ids])
        mask[row, start - 1 : end - 1] = torch.tensor(sample.loss_mask, dtype=torch.bool)
        engine_logprobs[row, mask[row]] = torch.tensor(sample.engine_logprobs, dtype=torch.float32)
    advantages = torch.tensor([sample.advantage for sample in samples], dtype=torch.float32)
    shares = torch.tensor([sample.share for sample in samples], dtype=torch.float32)
    by_token, teacher = None, None
    if any(sample.turn_advantages is not None for sample in samples):
        by_token = _placed([token_advantages(sample) for sample in samples], mask)
    if any(sample.teacher_logprobs is not None for sample in samples):
        teacher = _placed([sample.teacher_logprobs or [0.0] * sample.n_sampled for sample in samples], mask)
    tensors = (input_ids, mask, engine_logprobs, advantages, shares, by_token, teacher)
    return MicroBatch(*(None if tensor is None else tensor.to(device) for tensor in tensors))  # type: ignore[arg-type]


def token_advantages(sample: TrainSample) -> list[float]:
    """One per sampled token: its turn's, or the rollout's. Raises ValueError where the tokens have more turns than there are advantages."""
    if sample.turn_advantages is None:
        return [sample.advantage] * sample.n_sampled
    found: list[float] = []
    turn = -1
    for before, sampled in zip([0, *sample.loss_mask], sample.loss_mask, strict=False):
        turn += sampled and not before
        if turn >= len(sample.turn_advantages):
            raise ValueError(f"rollout {sample.rollout_id!r} has advantages for {len(sample.turn_advantages)} turns, and more turns")  # fmt: skip
        found += [sample.turn_advantages[turn]] if sampled else []
    return found


def _placed(values: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    """[B, T]: one value per True of each row of the mask, in order; 0 elsewhere."""
    flat = torch.tensor([value for row in values for value in row], dtype=torch.float32)
    return torch.zeros(mask.shape, dtype=torch.float32).masked_scatter(mask, flat)


def _check(sample: TrainSample) -> None:
    if not sample.prompt_ids:
        raise ValueError(f"rollout {sample.rollout_id!r} has no prompt tokens")
    if len(sample.loss_mask) != len(sample.token_ids) or len(sample.engine_logprobs) != sample.n_sampled:
        raise ValueError(
            f"rollout {sample.rollout_id!r} has {len(sample.token_ids)} tokens, {len(sample.loss_mask)} mask values, "
            f"{sample.n_sampled} sampled tokens and {len(sample.engine_logprobs)} logprobs"
        )
