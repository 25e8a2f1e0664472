"""How the sequences of a micro-batch lie in the rows that the model is given: one a row, or the rollouts of a group behind one prompt.

A shared row is [prompt, answer 1, answer 2, …]. Positions start again after the prompt for each answer, and an answer sees the prompt and itself,
so each token has the same logprob and gradient as in a row of its own; the prompt is computed once. A mask over the whole row would give the same
numbers, but the kernels would compute all pairs of answers before masking them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import TrainSample

NAME = "rollhouse_shared"


@dataclass(frozen=True)
class Answers:
    """Where the K answers lie in R rows of S positions.

    Attributes:
        prompt: Positions of the longest prompt, P.
        rows: [K] int64: the row of each answer.
        places: [K, L] int64: r * S + s of its positions; 0 at padding.
        valid: [K, L] bool: False at padding.
        mask: [K, 1, L, P + L] bool: what each position sees of its prompt and of its answer.
    """

    prompt: int
    rows: Tensor
    places: Tensor
    valid: Tensor
    mask: Tensor

    def to(self, device: str) -> "Answers":
        """With its tensors there."""
        return Answers(self.prompt, *(tensor.to(device) for tensor in (self.rows, self.places, self.valid, self.mask)))


def find_answers(spans: Sequence[tuple[int, int, int, int]], width: int) -> Answers | None:
    """From (row, tokens of its prompt, first position, end) of each answer; `width` is S. None when all answers are empty."""
    longest = max((end - start for _, _, start, end in spans), default=0)
    if not longest:
        return None
    rows, prompts, starts, ends = (torch.tensor(column) for column in zip(*spans, strict=True))
    prompt = int(prompts.max())
    offsets = torch.arange(longest)
    valid = offsets < (ends - starts)[:, None]
    places = ((rows * width + starts)[:, None] + offsets) * valid
    seen = (torch.arange(prompt) < prompts[:, None])[:, None, :].expand(-1, longest, -1)
    own = torch.ones(longest, longest, dtype=torch.bool).tril().expand(len(spans), -1, -1)
    return Answers(prompt, rows, places, valid, torch.cat([seen, own], -1).unsqueeze(1))


def use_shared_attention(model: Any) -> None:
    """Gives a transformers model this attention; rows without answers are computed as by sdpa. A model that cannot have it stays as it is."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)
    model.set_attn_implementation(NAME)


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, answers: Answers | None = None, **options: Any
) -> tuple[Tensor, None]:  # fmt: skip
    """As transformers calls it: query [R, H, S, D], key and value with H or fewer heads; returns [R, S, H, D]."""
    if answers is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # The backward pass of a CPU's attention takes longer in bfloat16 than in float32.
        with torch.autocast("cpu", enabled=False):
            found, _ = attention(module, query.float(), key.float(), value.float(), attention_mask, answers, **options)
        return found.to(torch.bfloat16), None
    scale, repeats = options.get("scaling"), query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    n = answers.prompt
    # Positions of a row behind a shorter prompt are computed here too, and replaced below.
    first = F.scaled_dot_product_attention(query[:, :, :n], key[:, :, :n], value[:, :, :n], is_causal=True, scale=scale)
    own = (_of_answers(tensor, answers) for tensor in (query, key, value))
    prompts = (tensor[:, :, :n][answers.rows] for tensor in (key, value))
    query_K, key_K, value_K = own
    keys, values = (torch.cat(pair, 2) for pair in zip(prompts, (key_K, value_K), strict=True))
    found = F.scaled_dot_product_attention(query_K, keys, values, attn_mask=answers.mask, scale=scale)
    whole = F.pad(first, (0, 0, 0, query.shape[2] - n)).transpose(1, 2).contiguous()
    places = answers.places[answers.valid]
    result = whole.flatten(0, 1).index_copy(0, places, found.transpose(1, 2)[answers.valid].to(whole.dtype))
    return result.view(whole.shape), None


def _of_answers(tensor: Tensor, answers: Answers) -> Tensor:
    """From [R, H, S, D] the positions of the answers, [K, H, L, D]."""
    return tensor.transpose(1, 2).flatten(0, 1)[answers.places].transpose(1, 2)


@dataclass(frozen=True)
class Layout:
    """The model's inputs, R rows of S positions, and where the N sampled tokens are predicted.

    Attributes:
        input_ids: [R, S] int64. The last token of a sequence is left out, since nothing is predicted from it.
        sources: [N] int64: r * S + s of the position that predicts each sampled token, in the order of MicroBatch.mask.
        targets: [N] int64: the sampled tokens.
        position_ids: [R, S]; None counts from 0 in each row.
        answers: Where the answers of shared rows lie; None is one sequence a row.
    """

    input_ids: Tensor
    sources: Tensor
    targets: Tensor
    position_ids: Tensor | None = None
    answers: Answers | None = None

    def to(self, device: str) -> "Layout":
        """The layout with its tensors there."""
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None})


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of the model: `token` a token in its linear layers, `pair` a pair of tokens that attend, over all layers."""

    token: float
    pair: float

    def causal(self, length: int) -> float:
        """Of a row of `length` tokens. Causal kernels leave out half of the pairs."""
        return length * self.token + length**2 * self.pair / 2

    def shared(self, n_rows: int, prompt: int, answer: int, width: int, n_answers: int) -> float:
        """Of rows of `width` tokens with answers behind their prompts; the answers have a mask, of which kernels leave out nothing."""
        pairs = n_rows * prompt**2 / 2 + n_answers * answer * (prompt + answer)
        return n_rows * width * self.token + pairs * self.pair


def model_cost(model: Any) -> Cost:
    """The cost of a transformers model, from its weights' shapes."""
    config = model.config.get_text_config()
    backbone, embedding = getattr(model, model.base_model_prefix), model.get_input_embeddings().weight
    linear = sum(weight.numel() for weight in backbone.parameters() if weight.ndim == 2 and weight is not embedding)
    chosen = getattr(config, "num_experts_per_tok", None) or 1  # experts of a layer that each token goes through
    stacked = [weight for name, weight in backbone.named_parameters() if weight.ndim == 3 and "expert" in name]
    linear += sum(weight.numel() // weight.shape[0] * chosen for weight in stacked)
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return Cost(linear, 2.0 * width * config.num_hidden_layers)


def full_attention(config: Any) -> bool:
    """Whether all layers are causal attention over everything before them, by the configuration."""
    if getattr(config, "_attn_implementation", None) not in ("sdpa", NAME):
        return False
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return all(kind == "full_attention" for kind in kinds)
    other = ("sliding_window", "attention_chunk_size", "alibi", "state_size", "attn_layer_period", "layers_block_type")
    return not any(getattr(config, name, None) for name in other)


def plain_layout(input_ids: Tensor, mask: Tensor) -> Layout:
    """One sequence a row: input_ids [B, T + 1] padded on the right, mask [B, T]. Causal attention never looks ahead, so padding needs no mask."""
    return Layout(input_ids[:, :-1], mask.flatten().nonzero().squeeze(-1), input_ids[:, 1:][mask])


def choose_rows(samples: Sequence[TrainSample], cost: Cost) -> list[list[int]] | None:
    """Which samples share a row, as positions in `samples`; all of a row have one prompt. None when one a row is cheapest.

    A longer row saves prompts and pays for padding where others are shorter, so the number of answers a row is the cheapest of all.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, sample in enumerate(samples):
        groups.setdefault(tuple(sample.prompt_ids), []).append(position)
    best, cheapest = None, len(samples) * cost.causal(max(sample.length for sample in samples) - 1)
    prompt = max(len(sample.prompt_ids) for sample in samples)
    answer = max(len(sample.token_ids) for sample in samples)
    for answers in range(2, max(map(len, groups.values())) + 1):
        rows = [row for members in groups.values() for row in _deal(members, samples, -(-len(members) // answers))]
        width = max(_length(row, samples) for row in rows)
        price = cost.shared(len(rows), prompt, answer, width, len(samples))
        if price < cheapest:
            best, cheapest = rows, price
    return best


def shared_layout(samples: Sequence[TrainSample], rows: Sequence[Sequence[int]]) -> Layout:
    """The rows of `choose_rows` as tensors on the CPU."""
    width = max(_length(row, samples) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.int64)
    position_ids = torch.zeros(len(rows), width, dtype=torch.int64)
    spans: list[tuple[int, int, int, int]] = []
    sources: dict[int, Tensor] = {}
    for number, row in enumerate(rows):
        prompt = samples[row[0]].prompt_ids
        end = len(prompt)
        input_ids[number, :end] = torch.tensor(prompt)
        position_ids[number, :end] = torch.arange(end)
        for position in row:
            start, tokens = end, samples[position].token_ids[:-1]
            end = start + len(tokens)
            input_ids[number, start:end] = torch.tensor(tokens, dtype=torch.int64)
            position_ids[number, start:end] = len(prompt) + torch.arange(len(tokens))
            spans.append((number, len(prompt), start, end))
            # The first token is predicted by the prompt's last, the others by the one before.
            before = torch.cat([torch.tensor([len(prompt) - 1]), torch.arange(start, end)])
            sampled = torch.tensor(samples[position].loss_mask, dtype=torch.bool)
            sources[position] = number * width + before[: len(sampled)][sampled]
    targets = [t for s in samples for t, kept in zip(s.token_ids, s.loss_mask, strict=True) if kept]
    return Layout(
        input_ids,
        torch.cat([sources[position] for position in range(len(samples))]),
        torch.tensor(targets, dtype=torch.int64),
        position_ids,
        find_answers(spans, width),
    )


def _deal(members: Sequence[int], samples: Sequence[TrainSample], n_rows: int) -> list[list[int]]:
    """The members over `n_rows` rows of about the same length: the longest first, each to the row that is shortest."""
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    lengths = [0] * n_rows
    for position in sorted(members, key=lambda position: (-samples[position].length, position)):
        row = lengths.index(min(lengths))
        rows[row].append(position)
        lengths[row] += max(1, len(samples[position].token_ids))
    return [row for row in rows if row]


def _length(row: Sequence[int], samples: Sequence[TrainSample]) -> int:
    """Positions that a row takes."""
    return len(samples[row[0]].prompt_ids) + sum(max(0, len(samples[position].token_ids) - 1) for position in row)
