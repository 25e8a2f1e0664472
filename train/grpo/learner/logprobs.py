"""Logprobs of sampled tokens under the learner's model, computed at the sampled positions only."""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....base.errors import TrainingError
from .batch import TrainSample, collate
from .layout import Layout, full_attention, plain_layout, shared_layout, use_shared_attention
from .model import evaluating
from .routes import replaying

# At most this many logits are held at once (512 MiB in float32), so that a large vocabulary does not decide the batch size.
MAX_LOGITS = 2**27


class TokenScorer(torch.nn.Module):
    """A causal language model that returns logprobs, as a module of its own, which several ranks split."""

    def __init__(self, model: Any) -> None:
        """Takes a transformers model; one of full attention computes it from now on as rows that share a prompt need it."""
        super().__init__()
        self.model = model
        self.routed = False  # whether router logits are kept
        self.routes: Tensor | None = None  # [R * S, L, K] of the next pass
        self.router_logits: tuple[Tensor, ...] = ()  # of the last pass: [N, E] a layer with experts
        if full_attention(model.config):
            use_shared_attention(model)

    def forward(
        self, layout: Layout, temperature: float = 1.0, chunk_tokens: int | None = None, entropy_grad: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Logprob and entropy of each sampled token, [N] each, float32.

        The output layer runs on the positions that predict one alone (prompts and tool results are most of a multi-turn sequence), and in
        chunks whose activations are recomputed in the backward pass when there are more than `chunk_tokens` of them.

        Args:
            temperature: Logits are divided by it, as the engine did when it sampled.
            chunk_tokens: None follows the vocabulary, MAX_LOGITS logits a chunk.
            entropy_grad: Whether entropies have a gradient.
        """
        backbone = backbone_of(self.model)
        options: dict[str, Any] = {"position_ids": layout.position_ids} if layout.position_ids is not None else {}
        if layout.answers is not None:
            options["answers"] = layout.answers
        if self.routed:
            options["output_router_logits"] = True
        with replaying(self.model, self.routes):
            output = backbone(input_ids=layout.input_ids, use_cache=False, **options)
        self.router_logits = (
            tuple(layer.flatten(0, -2)[layout.sources] for layer in output.router_logits) if self.routed else ()
        )
        hidden = output.last_hidden_state.flatten(0, 1)[layout.sources]
        size = chunk_tokens or max(1, MAX_LOGITS // self.model.get_output_embeddings().weight.shape[0])
        if len(hidden) <= size:
            return _pick(self.model, hidden, layout.targets, temperature, entropy_grad)
        chunks = [
            checkpoint(_pick, self.model, h, t, temperature, entropy_grad, use_reentrant=False)
            for h, t in zip(hidden.split(size), layout.targets.split(size), strict=True)
        ]
        logprobs, entropies = zip(*chunks, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)


def token_logprobs(
    model: Any, input_ids: Tensor, mask: Tensor, temperature: float = 1.0, chunk_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """Logprob and entropy at each position whose next token was sampled, one sequence a row.

    Args:
        model: A transformers causal language model.
        input_ids: [B, T + 1] token ids padded on the right.
        mask: [B, T] bool, True where token t + 1 was sampled.
        temperature, chunk_tokens: See TokenScorer.

    Returns:
        logprobs [B, T] with gradient and entropies [B, T] without, float32, both 0 where the mask is False.
    """
    logprobs, entropies = TokenScorer(model)(plain_layout(input_ids, mask), temperature, chunk_tokens)
    return spread(logprobs, mask), spread(entropies, mask)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """[N] values at the True positions of a [B, T] mask, row by row; 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def backbone_of(model: Any) -> Any:
    """The part of a causal language model below its output layer."""
    return getattr(model, model.base_model_prefix)


class _Hidden:
    """The output of a backbone: hidden states, and nothing else of what a backbone may return."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Logits [N, V] of hidden states [N, H], by the model's own forward with the backbone's part taken as done.

    So whatever an architecture does to its logits (scaling, soft capping) is done here too.
    """
    backbone = backbone_of(model)
    before = backbone.__dict__.get("forward")
    backbone.forward = lambda *_, **__: _Hidden(hidden.unsqueeze(0))
    try:
        options = {"output_router_logits": False} if _takes(model, "output_router_logits") else {}
        return model.forward(inputs_embeds=hidden.unsqueeze(0), use_cache=False, **options).logits[0]
    finally:
        del backbone.forward
        if before is not None:
            backbone.forward = before


def _takes(model: Any, argument: str) -> bool:
    return argument in inspect.signature(type(model).forward).parameters


LOGPROB_TOLERANCE = 1e-3
"""Largest difference of a float32 logprob from the model's own forward at the start."""


@torch.no_grad()
def logprob_gap(model: Any, device: str = "cpu") -> float:
    """Largest difference between the learner's logprobs and the model's own forward on a few tokens, one sequence of them padded.

    The model must be as transformers loaded it: a TokenScorer may change how it computes attention. In evaluation mode afterwards as before.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = [number % vocabulary for number in range(3, 150, 7)]
    sequences = [
        TrainSample("", seq[:3], seq[3:], [1] * len(seq[3:]), [0.0] * len(seq[3:])) for seq in (ids, ids[5:14])
    ]
    expected = []
    with evaluating(model):
        for sample in sequences:
            whole = torch.tensor([[*sample.prompt_ids, *sample.token_ids]], device=device)
            own = model(input_ids=whole, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            expected.append(own.gather(-1, whole[0, 1:, None])[len(sample.prompt_ids) - 1 :, 0])
        batch = collate(sequences, device)
        ours, _ = TokenScorer(model)(plain_layout(batch.input_ids, batch.mask))
    gap = (ours - torch.cat(expected)).abs().max()
    return float(gap)


def refuse_other_logits(model: Any, gap: float) -> None:
    """Raises TrainingError for a model whose logprobs the learner cannot compute. `gap` is logprob_gap of it."""
    if not gap <= LOGPROB_TOLERANCE:
        raise TrainingError(
            f"The learner's logprobs of this {type(model).__name__} differ from the model's own forward by {gap:.3g}.",
            "The architecture cannot be trained with GRPO; docs/models.md lists those that can.",
        )


@torch.no_grad()
def can_share_prefix(model: Any, device: str = "cpu") -> bool:
    """Whether answers behind one prompt score as they do alone, by the configuration and by the model itself on a few tokens."""
    if not full_attention(model.config):
        return False
    ids = [number % model.get_input_embeddings().weight.shape[0] for number in range(3, 80, 7)]
    pair = [TrainSample("", ids[:5], answer, [1] * len(answer), [0.0] * len(answer)) for answer in (ids[5:9], ids[6:])]
    batch, scorer = collate(pair, device), TokenScorer(model)
    try:
        alone, _ = scorer(plain_layout(batch.input_ids, batch.mask))
        shared, _ = scorer(shared_layout(pair, [[0, 1]]).to(device))
    except (TypeError, ValueError, RuntimeError):  # it takes no such mask or positions
        return False
    return bool((alone - shared).abs().max() < 1e-3)


def _pick(
    model: Any, hidden_N: Tensor, targets_N: Tensor, temperature: float, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    """Logprobs of the targets and entropies, both [N], in float32 whatever the model computes in."""
    logits = logits_of(model, hidden_N).float()
    if temperature != 1:
        logits = logits / temperature
    return Picked.apply(logits, targets_N, entropy_grad)  # type: ignore[return-value]


class Picked(torch.autograd.Function):
    """log softmax at the targets, and entropies, from logits [N, V].

    Written out because [N, V] is the largest tensor of a step: autograd would keep four of them and go over them fourteen times; this keeps one, or two
    where entropies have a gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, entropy_grad: bool) -> tuple[Tensor, Tensor]:
        """Both [N]."""
        everything = logits.log_softmax(-1)
        logprobs = everything.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        probabilities = everything.exp()
        with torch.autocast(logits.device.type, enabled=False):  # else the product is rounded
            entropies = -torch.linalg.vecdot(probabilities, everything)
        ctx.entropy_grad = entropy_grad
        ctx.save_for_backward(targets, probabilities, *((everything, entropies) if entropy_grad else ()))
        if not entropy_grad:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """d logprob / d logits is one at the target minus the probabilities; d entropy / d logit v is -p_v (ln p_v + entropy)."""
        targets, probabilities, *kept = ctx.saved_tensors
        found = probabilities * -grads[0].unsqueeze(-1)
        if ctx.entropy_grad:
            everything, entropies = kept
            found -= probabilities * (everything + entropies.unsqueeze(-1)) * grads[1].unsqueeze(-1)
        found.scatter_add_(-1, targets.unsqueeze(-1), grads[0].unsqueeze(-1))
        return found, None, None
