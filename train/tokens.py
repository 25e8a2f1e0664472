"""From trajectories to the tokens a trainer scores.

Where a rollout carries the tokens its policy sampled, under the tokenizer and template of the model in training, these are
trained on as they are: text rendered again need not give the same tokens. Elsewhere the template renders the messages, and
its generation marks say which tokens are the assistant's.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..collect.chat import ChatFormat
from ..store.errors import ConfigError
from ..transform.materialize import Trajectory


@dataclass(frozen=True)
class TokenRow:
    """One trajectory in tokens.

    Attributes:
        response_ids: Everything after the prompt, tool results included.
        mask: Parallel to response_ids: 1 where the policy's own token is learned from.
        rendered: Whether the template made the tokens; otherwise they are those that were sampled.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    rendered: bool

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def tokenize(
    trajectories: Sequence[Trajectory], chat: ChatFormat, max_length: int, context: int | None = None
) -> tuple[list[TokenRow], dict[str, int]]:
    """The rows in order, and how they came about.

    Args:
        max_length: The longest row that is trained on, in tokens.
        context: The longest row the model takes; None when it does not say.
    Returns:
        The rows, parallel to `trajectories`, and counts: `sampled` rows kept their tokens, `rendered` ones did not have
        any of this model, of these `other_model` have tokens of another tokenizer or template, and of the sampled ones
        `retokenised_differently` would have got other tokens from the template.

    Raises:
        ConfigError: Rows longer than `max_length` or without a token to learn from, or a template whose generation marks
            do not agree with what was sampled.
    """
    template = marked_template(chat)
    rows, counts = [], Counter({"sampled": 0, "rendered": 0, "retokenised_differently": 0})
    for trajectory in trajectories:
        rendered = render(trajectory, chat, template)
        row = sampled_row(trajectory, chat) or rendered
        counts["rendered" if row.rendered else "sampled"] += 1
        counts["other_model"] += row.rendered and trajectory.token_ids is not None
        if not row.rendered and any(rendered.mask):
            counts[_compare(row, rendered)] += 1
        rows.append(row)
    if counts["masks_disagree"]:
        raise ConfigError(
            f"The template's generation marks disagree with the stored loss mask on {counts['masks_disagree']} of {len(rows)} rows.",
            "Let the marks enclose the assistant's text and its end-of-turn token, and nothing else.",
        )
    _check_rows(rows, max_length, context)
    return rows, {name: counts[name] for name in ("sampled", "rendered", "other_model", "retokenised_differently")}


def sampled_row(trajectory: Trajectory, chat: ChatFormat) -> TokenRow | None:
    """The tokens as they were sampled; None when there are none, or they are of another tokenizer or template."""
    same = (trajectory.tokenizer_hash, trajectory.template_hash) == (chat.tokenizer_hash, chat.template_hash)
    prompt, response, mask = trajectory.prompt_ids, trajectory.token_ids, trajectory.loss_mask
    if not same or prompt is None or response is None or mask is None or trajectory.prefix_ok is False:
        return None
    return TokenRow(prompt, response, mask, rendered=False)


def render(trajectory: Trajectory, chat: ChatFormat, template: str | None = None) -> TokenRow:
    """The messages through the template. What the template appends after the last assistant token is left out."""
    tools = json.loads(trajectory.tools)
    prompt = chat.render(trajectory.prompt, tools, generation_prompt=True)
    whole, mask = chat.render_with_mask((*trajectory.prompt, *trajectory.messages), tools, template)
    start = _common_prefix(prompt, whole)
    end = max((at + 1 for at in range(start, len(whole)) if mask[at]), default=len(whole))
    return TokenRow(whole[:start], whole[start:end], mask[start:end], rendered=True)


def marked_template(chat: ChatFormat) -> str | None:
    """A template with generation marks to use in place of one without; None when the tokenizer's own has them or none is known."""
    if "generation" in str(chat.tokenizer.chat_template).replace("add_generation_prompt", ""):
        return None
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(chat.tokenizer)
    except ValueError:
        return None


def _compare(sampled: TokenRow, rendered: TokenRow) -> str:
    end = max((at + 1 for at, bit in enumerate(sampled.mask) if bit), default=0)
    if sampled.prompt_ids + sampled.response_ids[:end] != rendered.prompt_ids + rendered.response_ids:
        return "retokenised_differently"
    return "masks_agree" if sampled.mask[:end] == rendered.mask else "masks_disagree"


def _check_rows(rows: list[TokenRow], max_length: int, context: int | None) -> None:
    lengths = [len(row) for row in rows]
    beyond = sum(length > context for length in lengths) if context is not None else 0
    if beyond:
        raise ConfigError(
            f"{beyond} of {len(rows)} rows are longer than the model's context of {context} tokens (the longest has {max(lengths)}).",
            "Take a model with a longer context, or build the dataset with a lower max_tokens.",
        )
    too_long = sum(length > max_length for length in lengths)
    if too_long:
        raise ConfigError(
            f"{too_long} of {len(rows)} rows are longer than policy.max_total_sequence_length={max_length} (the longest has {max(lengths)} tokens).",
            "Raise it, or build the dataset with a lower max_tokens.",
        )
    silent = sum(not any(row.mask) for row in rows)
    if silent:
        raise ConfigError(
            f"{silent} of {len(rows)} rows have no token to learn from.",
            "Put {% generation %} marks around the assistant's turn in the chat template.",
        )


def _common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    # Some templates render the start of a turn differently once it has content; the response starts where they part.
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
