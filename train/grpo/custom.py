"""A user's own loss and advantage: what such a function gets, what it returns, and how it is checked before anything is paid for.

A loss (`loss_fn.custom`) is `function(inputs: LossInputs) -> (loss, metrics)`:

- The loss is [B, T], one value per token, which is summed as `token_level_loss` and `fixed_length` say, or [B], one value per rollout, whose mean
  over the step's rollouts is taken. The divisors count the whole optimizer step, so the function never divides by a number of tokens or rollouts
  of the micro-batch, and never returns a scalar.
- The values of a rollout depend on that rollout alone. Then loss and gradient do not depend on micro-batches and ranks.
- It is the policy term: clip and engine correction are the function's own. KL and entropy are added as the settings of loss_fn say.
- The metrics are name → [B, T] or [B]; `loss/NAME` is the mean over the step's sampled tokens.

An advantage (`grpo.advantage`) is `function(inputs: AdvantageInputs) -> Tensor [n]`, called once for each group.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...base.errors import ConfigError, TrainingError
from ...base.plugins import error_place, load_plugin, parse_plugin, plugin_hash
from .loss import LossFunction, LossInputs

if TYPE_CHECKING:
    from .config import GrpoConfig

_ROWS, _WIDTH = 5, 6


@dataclass(frozen=True)
class AdvantageInputs:
    """The n rollouts of one group that have a verdict, n at least 2, in the order of their samples.

    Attributes:
        rewards: [n] float64: what is compared, after reward_shaping.
        n_tokens: [n] int64: sampled tokens of each rollout, all its turns together.
        truncated: [n] bool: the rollout ended at a limit.
    """

    rewards: Tensor
    n_tokens: Tensor
    truncated: Tensor


AdvantageFunction = Callable[[AdvantageInputs], Tensor]


def load_loss(spec: str | None) -> LossFunction | None:
    """The function of `loss_fn.custom`, checked; None for None. Raises ConfigError when it does not keep to the contract."""
    if spec is None:
        return None
    function = load_plugin(spec, "loss")
    check_loss(function, spec)
    return function


def load_advantage(spec: str | None) -> AdvantageFunction | None:
    """The function of `grpo.advantage`, checked on a made-up group; None for None. Raises ConfigError."""
    if spec is None:
        return None
    function = load_plugin(spec, "advantage")
    group = AdvantageInputs(
        torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64), torch.tensor([3, 4, 5]), torch.tensor([False, False, True])
    )
    try:
        checked_advantages(function, spec, group)
    except TrainingError as error:
        raise ConfigError(error.message, error.fix) from error
    return function


def checked_advantages(function: AdvantageFunction, spec: str, group: AdvantageInputs) -> Tensor:
    """The advantages of a group, [n] float64. Raises TrainingError for an error of the function and for another shape or a value that is not finite."""
    try:
        values = torch.as_tensor(function(group)).detach().double()
    except Exception as error:
        raise TrainingError(f"The advantage {spec} failed: {_place(error, spec)}.", "Correct the function.") from error
    if values.shape != group.rewards.shape or not values.isfinite().all():
        raise TrainingError(
            f"The advantage {spec} returned {values.tolist()} for a group of {len(group.rewards)} rollouts.",
            "Return a tensor [n] of finite numbers, parallel to inputs.rewards.",
        )
    return values


def check_loss(function: LossFunction, spec: str) -> None:
    """Calls a loss on a made-up micro-batch, and on each of its rollouts alone: loss and gradient must be the same.

    Raises ConfigError naming what does not keep to the contract.
    """
    whole, gradient = _called(function, spec, _made_up())
    if not whole.isfinite().all() or not gradient.isfinite().all():
        raise _refused(
            spec,
            "is not finite, or its gradient is not",
            "A micro-batch can have a rollout without a sampled token: divide by at least 1.",
        )
    for row in range(_ROWS):
        alone, own = _called(function, spec, _rows(_made_up(), row))
        same = torch.allclose(alone, whole[row : row + 1], rtol=1e-4, atol=1e-6)
        if not same or not torch.allclose(own, gradient[row : row + 1], rtol=1e-4, atol=1e-6):
            raise _refused(
                spec,
                "gives a rollout another loss or gradient when other rollouts are in the micro-batch",
                "Compute each rollout's values from that rollout alone, and leave the division by counts to the trainer.",
            )


def _called(function: LossFunction, spec: str, inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """The loss at sampled tokens (0 elsewhere), [B, T] or [B], and the gradient of its sum, [B, T]."""
    logprobs = inputs.logprobs.clone().requires_grad_()
    try:
        answer = function(replace(inputs, logprobs=logprobs))
    except Exception as error:
        raise _refused(spec, f"failed: {_place(error, spec)}", "Correct the function.") from error
    shape = inputs.mask.shape
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Mapping):
        raise _refused(spec, f"returned {type(answer).__name__}", "Return (loss, metrics), metrics being a dict.")
    loss, metrics = answer
    for name, value in {"loss": loss, **metrics}.items():
        if not isinstance(value, Tensor) or value.shape not in (shape, shape[:1]):
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise _refused(
                spec,
                f"returned {name} as {got} for {shape[0]} rollouts of {shape[1]} positions",
                "Return one value per token, [B, T], or per rollout, [B]; the trainer sums them and divides by the step's counts.",
            )
    sampled = inputs.mask if loss.ndim == 2 else inputs.mask.any(-1)
    loss = torch.where(sampled, loss, 0.0)
    if not loss.requires_grad:
        raise _refused(spec, "has no gradient", "Compute it from inputs.logprobs without detach().")
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    return loss.detach(), gradient


def _place(error: Exception, spec: str) -> str:
    parsed = parse_plugin(spec)
    return error_place(error, None if parsed is None else parsed.file)


def _refused(spec: str, what: str, fix: str) -> ConfigError:
    return ConfigError(f"The loss {spec} {what}.", fix)


def _made_up() -> LossInputs:
    """Five rollouts; the second has no sampled token, the first has one at every position."""
    draw = torch.Generator().manual_seed(0)
    logprobs = -4 * torch.rand(_ROWS, _WIDTH, generator=draw)
    old, engine, reference = (logprobs + 0.3 * torch.randn(_ROWS, _WIDTH, generator=draw) for _ in range(3))
    mask = torch.rand(_ROWS, _WIDTH, generator=draw) < 0.6
    mask[0], mask[1] = True, False
    advantages = torch.randn(_ROWS, generator=draw)
    entropies = torch.rand(_ROWS, _WIDTH, generator=draw)
    logprobs, old, engine, reference, entropies = (
        torch.where(mask, values, 0.0) for values in (logprobs, old, engine, reference, entropies)
    )
    return LossInputs(logprobs, old, engine, mask, advantages, reference, entropies, torch.ones(_ROWS))


def _rows(inputs: LossInputs, row: int) -> LossInputs:
    return replace(inputs, **{name: value[row : row + 1] for name, value in vars(inputs).items() if value is not None})


# -- in a configuration --------------------------------------------------------------------------------------------------

CODE = ("loss_fn.custom", "grpo.advantage")
"""Settings that name a user's code."""


def code_hashes(config: "GrpoConfig") -> dict[str, str]:
    """SHA-256 of the user's code by the setting that names it; they are part of a run's identity."""
    specs = {"loss_fn.custom": config.loss_fn.custom, "grpo.advantage": config.grpo.advantage}
    return {name: digest for name, spec in specs.items() if spec and (digest := plugin_hash(spec)) is not None}


def stored_code(config: "GrpoConfig", overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The settings of a stored run that name a user's code, and their values, without those that an override `section.key=value` sets."""
    given = [override.lstrip("+").partition("=")[0] for override in overrides]
    specs = {"loss_fn.custom": config.loss_fn.custom, "grpo.advantage": config.grpo.advantage}
    for name, spec in specs.items():
        if spec and not any(name == key or name.startswith(f"{key}.") for key in given):
            yield name, spec


def recorded_hashes(payload: Mapping[str, Any]) -> dict[str, str]:
    """The same of a stored run, from the payload that it was started with."""
    files = payload.get("files") or {}
    return {name: files[name] for name in CODE if name in files}
