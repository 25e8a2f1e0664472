"""Router replay: the learner's tokens go through the experts that the engine chose (rollout routing replay, Ma et al. 2025, arXiv:2510.11370).

Engine and learner compute a router's logits with other roundings, so that near a tie they choose other experts, and the logprobs of a token differ by far more
than rounding. With replay the choice is the engine's; the weights of the chosen experts, and their gradient, are the learner's own.

A router chooses by torch.topk over its experts. In the block of `replaying` the choice of the l-th such call is the recorded one of the l-th layer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ....base.errors import ConfigError, TrainingError
from ....policies.routes import unpack_routes
from .batch import TrainSample
from .model import evaluating

UNKNOWN = -1


class _Replay(TorchFunctionMode):
    """Replaces choices; `taken` are those that were made, [N, K] a layer.

    `routes` is [N, L, K] with UNKNOWN where the router chooses itself; None where it always does.
    """

    def __init__(self, experts: int, chosen: int, routes: Tensor | None) -> None:
        super().__init__()
        self._experts, self._chosen, self._routes = experts, chosen, routes
        self.taken: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A call of torch within the block."""
        found = func(*args, **(kwargs or {}))
        if func not in (torch.topk, torch.Tensor.topk):
            return found
        values, indices = found
        scores = args[0] if args else (kwargs or {})["input"]
        if scores.shape[-1] != self._experts or indices.shape[-1] != self._chosen:
            return found
        if self._routes is not None:
            layer = len(self.taken)
            if layer >= self._routes.shape[1]:
                raise _other_layers(layer + 1, self._routes.shape[1])
            given = self._routes[:, layer].reshape(indices.shape)
            indices = torch.where(given == UNKNOWN, indices, given)
            values = scores.gather(-1, indices)
        self.taken.append(indices.detach().reshape(-1, self._chosen))
        return torch.return_types.topk((values, indices))


@contextmanager
def replaying(model: Any, routes: Tensor | None) -> Iterator[None]:
    """In the block the routers of the model choose what `routes` [N, L, K] says; None leaves them alone. Raises TrainingError for routes of another number of layers."""
    if routes is None:
        yield
        return
    with _Replay(*_sizes(model), routes) as mode:
        yield
    if len(mode.taken) != routes.shape[1]:
        raise _other_layers(len(mode.taken), routes.shape[1])


def routes_of(samples: Sequence[TrainSample], width: int, device: str) -> Tensor | None:
    """[B, width, L, K] int64, UNKNOWN where no choice is known; None when none is. Raises ValueError for routes that do not fit a sample."""
    known = {row: unpack_routes(sample.routes) for row, sample in enumerate(samples) if sample.routes is not None}
    if not known:
        return None
    shape = next(iter(known.values())).shape[1:]
    found = torch.full((len(samples), width, *shape), UNKNOWN, dtype=torch.int64)
    for row, routes in known.items():
        if routes.shape[1:] != shape or len(routes) > samples[row].length:
            raise ValueError(f"the routes of rollout {samples[row].rollout_id!r} do not fit its tokens: {routes.shape}")
        n = min(len(routes), width)
        found[row, :n] = torch.from_numpy(routes[:n].astype("int64"))
    return found.to(device)


@torch.no_grad()
def refuse_unreplayable(model: Any, device: str) -> None:
    """Tries replay on a few tokens: a model's own choices must change nothing, others something, and every layer must choose.

    Raises ConfigError for a model that does not route by such a choice in every layer.
    """
    ids = torch.arange(3, 12, device=device)[None] % model.get_input_embeddings().weight.shape[0]
    sizes = _sizes(model)
    with evaluating(model):
        with _Replay(*sizes, None) as mode:
            own = model(input_ids=ids, use_cache=False).logits
        layers = model.config.get_text_config().num_hidden_layers
        if len(mode.taken) != layers:
            raise _unfit(model, f"{len(mode.taken)} of its {layers} layers choose experts by topk")
        routes = torch.stack(mode.taken, 1)
        with replaying(model, routes):
            same = model(input_ids=ids, use_cache=False).logits
        with replaying(model, (routes + 1) % sizes[0]):
            other = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(own, same, atol=1e-5) or torch.allclose(own, other, atol=1e-5):
        raise _unfit(model, "its routers do not follow recorded choices")


def _sizes(model: Any) -> tuple[int, int]:
    """Experts, and those chosen for a token. Raises ConfigError for a model without experts."""
    config = model.config.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((value for name in names if (value := getattr(config, name, None))), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    if not experts or not chosen:
        raise _unfit(model, "it has no experts")
    return experts, chosen


def _unfit(model: Any, why: str) -> ConfigError:
    return ConfigError(f"policy.router_replay does not fit a {type(model).__name__}: {why}.", "Leave it out.")


def _other_layers(found: int, stored: int) -> TrainingError:
    return TrainingError(
        f"The stored routes are of {stored} layers, and {found} layers choose experts.",
        "Set policy.router_replay=false, or train on rollouts of this model.",
    )
