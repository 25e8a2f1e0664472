"""From trajectories to the tokens that a trainer scores.

A rollout may carry the tokens that its policy sampled. If they belong to the tokenizer and template of the model in training, they
are used unchanged, because rendering the text again need not give the same tokens. Otherwise the template renders the messages,
and its generation marks tell which tokens are the assistant's.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import ConfigError
from ..policies.chat import ChatFormat
from ..transform.materialize import Trajectory


@dataclass(frozen=True)
class TokenRow:
    """One trajectory in tokens.

    Attributes:
        prompt_ids: Token ids of the prompt.
        response_ids: Token ids of everything after the prompt, tool results included.
        mask: Parallel to response_ids: 1 for a token of the policy, which is learned, else 0.
        rendered: Whether the template rendered the tokens; otherwise they are the sampled ones.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    rendered: bool

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass
class Tokenizing:
    """Turns trajectories into tokens one by one and counts what `check` reports at the end.

    Attributes:
        max_length: The longest row that may be trained on, in tokens.
        context: The longest row that the model accepts, in tokens; None when the model states none.
        counts: Numbers of rows: `sampled` rows kept their sampled tokens and `rendered` rows did not; of the rendered rows,
            `other_model` have tokens of another tokenizer or template; of the sampled rows, `retokenised_differently` would get
            other tokens from the template. Further counts are for `check`.
        longest: Length of the longest row so far, in tokens.
    """

    chat: ChatFormat
    max_length: int
    context: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    longest: int = 0

    def __post_init__(self) -> None:
        self._template = marked_template(self.chat)

    def row(self, trajectory: Trajectory) -> TokenRow:
        """The trajectory in tokens, counted."""
        rendered = render(trajectory, self.chat, self._template)
        row = sampled_row(trajectory, self.chat) or rendered
        self.counts["rendered" if row.rendered else "sampled"] += 1
        self.counts["other_model"] += row.rendered and trajectory.token_ids is not None
        if not row.rendered and any(rendered.mask):
            self.counts[_compare(row, rendered)] += 1
        self.counts["too_long"] += len(row) > self.max_length
        self.counts["beyond_context"] += self.context is not None and len(row) > self.context
        self.counts["silent"] += not any(row.mask)
        self.longest = max(self.longest, len(row))
        return row

    def check(self) -> dict[str, int]:
        """The counts for the run's summary.

        Raises:
            ConfigError: Rows are longer than `max_length` or `context` or have no token to learn from, or the generation marks of
                the template disagree with the sampled tokens.
        """
        counts, n = self.counts, self.counts["sampled"] + self.counts["rendered"]
        if counts["masks_disagree"]:
            raise ConfigError(
                f"The template's generation marks disagree with the stored loss mask on {counts['masks_disagree']} of {n} rows.",
                "Place the marks around the assistant's text and its end-of-turn token, and nothing else.",
            )
        if counts["beyond_context"]:
            raise ConfigError(
                f"{counts['beyond_context']} of {n} rows are longer than the model's context of {self.context} tokens (the longest has {self.longest}).",
                "Use a model with a longer context, or build the dataset with a lower max_tokens.",
            )
        if counts["too_long"]:
            raise ConfigError(
                f"{counts['too_long']} of {n} rows are longer than policy.max_total_sequence_length={self.max_length} (the longest has {self.longest} tokens).",
                "Increase it, or build the dataset with a lower max_tokens.",
            )
        if counts["silent"]:
            raise ConfigError(
                f"{counts['silent']} of {n} rows have no token to learn from.",
                "Put {% generation %} marks around the assistant's turn in the chat template.",
            )
        return {name: counts[name] for name in ("sampled", "rendered", "other_model", "retokenised_differently")}


def sampled_row(trajectory: Trajectory, chat: ChatFormat) -> TokenRow | None:
    """The sampled tokens; None when there are none, or they belong to another tokenizer or template."""
    same = (trajectory.tokenizer_hash, trajectory.template_hash) == (chat.tokenizer_hash, chat.template_hash)
    prompt, response, mask = trajectory.prompt_ids, trajectory.token_ids, trajectory.loss_mask
    if not same or prompt is None or response is None or mask is None or trajectory.prefix_ok is False:
        return None
    return TokenRow(prompt, response, mask, rendered=False)


def render(trajectory: Trajectory, chat: ChatFormat, template: str | None = None) -> TokenRow:
    """The messages rendered by the template, without what the template appends after the last assistant token."""
    tools = json.loads(trajectory.tools)
    prompt = chat.render(trajectory.prompt, tools, generation_prompt=True)
    whole, mask = chat.render_with_mask((*trajectory.prompt, *trajectory.messages), tools, template)
    start = _common_prefix(prompt, whole)
    end = max((at + 1 for at in range(start, len(whole)) if mask[at]), default=len(whole))
    return TokenRow(whole[:start], whole[start:end], mask[start:end], rendered=True)


def marked_template(chat: ChatFormat) -> str | None:
    """A template with generation marks for a tokenizer whose template has none; None when it has them, or none is known."""
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


def _common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    # Some templates render the start of a turn differently once it has content; the response starts at the first difference.
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
