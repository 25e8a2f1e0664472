"""From trajectories to the tokens that a trainer scores.

A rollout may carry the tokens that its policy sampled. If they belong to the tokenizer and template of the model in training, they
are used unchanged and nothing is rendered, because rendering the text again need not give the same tokens. Otherwise the template
renders the policy's turns. A trajectory that can be neither used nor rendered is left out, with a reason.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import ConfigError
from ..policies.chat import ChatFormat
from ..policies.template import TemplateError
from ..transform.materialize import Pair, Trajectory
from .rendering import render_turns

COMPARED = 256
"""Sampled rows that are also rendered, to count those that would get other tokens: rendering is many times slower than reading."""
_MARKS_FIX = "Place the marks around the assistant's text and its end-of-turn token, and nothing else."


@dataclass(frozen=True)
class TokenRow:
    """One sequence in tokens: a trajectory, or the part of one that shares a history.

    Attributes:
        prompt_ids: Token ids of what comes before the first learned turn.
        response_ids: Token ids of everything after, tool results included.
        mask: Parallel to response_ids: 1 for a token of the policy, which is learned, else 0.
        rendered: Whether the template rendered the tokens; otherwise they are the sampled ones.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    rendered: bool

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


Side = list[TokenRow]
"""A trajectory in tokens: one row, or several where the template rewrites the history between its turns."""


@dataclass
class Tokenizing:
    """Turns trajectories into tokens one by one, and counts what becomes of them.

    Attributes:
        max_length: The longest row that may be trained on, in tokens.
        context: The longest row that the model accepts, in tokens; None when the model states none.
        leave_out_too_long: Whether a longer row is left out; otherwise `check` refuses it.
        counts: Numbers of trajectories: `sampled` keep their sampled tokens and `rendered` do not; of the rendered ones `other_model`
            have tokens of another tokenizer or template; of the sampled ones `compared` were also rendered, and
            `retokenised_differently` of these would get other tokens from the template. `rows` is the number of sequences.
        left_out: Reason to number of trajectories; a pair counts as two.
        longest: Length of the longest row so far, in tokens.
    """

    chat: ChatFormat
    max_length: int
    context: int | None = None
    leave_out_too_long: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    longest: int = 0

    @property
    def limit(self) -> int:
        """The longest row that can be trained on, in tokens."""
        return self.max_length if self.context is None else min(self.max_length, self.context)

    def rows(self, trajectory: Trajectory) -> Side:
        """The trajectory in tokens, counted; empty when it is left out."""
        return (self._sides(trajectory) or [[]])[0]

    def pair(self, pair: Pair) -> tuple[Side, Side] | None:
        """Chosen and rejected in tokens, counted; None when the pair is left out, because of either side."""
        found = self._sides(pair.chosen, pair.rejected)
        return None if found is None else (found[0], found[1])

    def _sides(self, *given: Trajectory) -> list[Side] | None:
        """The tokens of the trajectories, all of them counted as trained on; None when they are left out together."""
        try:
            sides = [self._tokens(each) for each in given]
            if len({tuple(side[0].prompt_ids) for side in sides if side and not side[0].rendered}) > 1:
                # Sampled after other tokens for the same prompt, so not comparable as they are.
                sides = [self._render(each) for each in given]
        except TemplateError as error:
            self.left_out[error.message] += len(given)
            return None
        if not all(sides):
            self.left_out["it has no token to learn from"] += len(given)
            return None
        longest = max(len(row) for side in sides for row in side)
        self.longest = max(self.longest, longest)
        if longest > self.limit:
            self.counts["too_long"] += len(given)
            if self.leave_out_too_long:
                self.left_out[f"it is longer than {self.limit} tokens"] += len(given)
                return None
        for side, trajectory in zip(sides, given, strict=True):
            self._count(side, trajectory)
        return sides

    def _tokens(self, trajectory: Trajectory) -> Side:
        sampled = sampled_row(trajectory, self.chat)
        if sampled is not None:
            return [sampled] if any(sampled.mask) else []
        return self._render(trajectory)

    def _render(self, trajectory: Trajectory) -> Side:
        found = render_turns(
            self.chat, trajectory.prompt, trajectory.messages, json.loads(trajectory.tools), trajectory.untrained
        )
        self.counts["header_differs"] += found.header_differs
        return [TokenRow(row.prompt_ids, row.response_ids, row.mask, rendered=True) for row in found.rows]

    def _count(self, side: Side, trajectory: Trajectory) -> None:
        rendered = side[0].rendered
        self.counts["rendered" if rendered else "sampled"] += 1
        self.counts["rows"] += len(side)
        self.counts["other_model"] += rendered and trajectory.token_ids is not None
        if not rendered and self.counts["compared"] < COMPARED:
            self._compare(side[0], trajectory)

    def _compare(self, sampled: TokenRow, trajectory: Trajectory) -> None:
        try:
            found = render_turns(self.chat, trajectory.prompt, trajectory.messages, json.loads(trajectory.tools))
        except TemplateError:
            return
        self.counts["compared"] += 1
        end = max(at + 1 for at, bit in enumerate(sampled.mask) if bit)
        one = found.rows[0] if len(found.rows) == 1 else None
        if one is None or sampled.prompt_ids + sampled.response_ids[:end] != one.prompt_ids + one.response_ids:
            self.counts["retokenised_differently"] += 1
            return
        learned = [0] * len(sampled.prompt_ids) + sampled.mask[:end]
        marked, whole = ([0] * len(one.prompt_ids) + mask for mask in (one.mask, one.turns))
        self.counts["marks_disagree"] += marked != learned == whole

    def check(self) -> dict[str, Any]:
        """The counts for the run's summary: `sampled`, `rendered`, `other_model`, `retokenised_differently` (of `compared`), `rows`,
        `left_out`, and `left_out_because` by reason.

        Raises:
            ConfigError: Rows are too long and not left out, nothing is left to train on, or the template's generation marks leave out
                what the stored loss mask of the same tokens learns.
        """
        counts, used = self.counts, self.counts["sampled"] + self.counts["rendered"]
        n = used + sum(self.left_out.values())
        if counts["marks_disagree"]:
            raise ConfigError(
                f"The template's generation marks disagree with the stored loss mask on {counts['marks_disagree']} of {counts['compared']} rows.",
                _MARKS_FIX,
            )
        if counts["too_long"] and not self.leave_out_too_long:
            raise ConfigError(*self._too_long(n))
        if not used:
            reasons = "; ".join(f"{reason.rstrip('.')} ({number})" for reason, number in self.left_out.most_common(3))
            raise ConfigError(
                f"None of {n} rows can be trained on: {reasons or 'the dataset is empty'}.",
                "Name another chat template with --chat-template FILE, or build another dataset.",
            )
        names = ("sampled", "rendered", "other_model", "compared", "retokenised_differently", "header_differs", "rows")
        left_out = {reason: number for reason, number in self.left_out.most_common()}
        return {name: counts[name] for name in names} | {"left_out": n - used, "left_out_because": left_out}

    def _too_long(self, n: int) -> tuple[str, str]:
        longer, leave_out = self.counts["too_long"], "leave them out with policy.leave_out_too_long=true"
        if self.context is not None and self.context < self.max_length:
            said = f"longer than the model's context of {self.context} tokens"
            return f"{longer} of {n} rows are {said} (the longest has {self.longest}).", f"Use a model with a longer context, or {leave_out}."  # fmt: skip
        said = f"longer than policy.max_total_sequence_length={self.max_length}"
        return f"{longer} of {n} rows are {said} (the longest has {self.longest} tokens).", f"Increase it, or {leave_out}."  # fmt: skip


def sampled_row(trajectory: Trajectory, chat: ChatFormat) -> TokenRow | None:
    """The sampled tokens; None when there are none, or they belong to another tokenizer or template."""
    same = (trajectory.tokenizer_hash, trajectory.template_hash) == (chat.tokenizer_hash, chat.template_hash)
    prompt, response, mask = trajectory.prompt_ids, trajectory.token_ids, trajectory.loss_mask
    if not same or prompt is None or response is None or mask is None or trajectory.prefix_ok is False:
        return None
    return TokenRow(prompt, response, mask, rendered=False)
