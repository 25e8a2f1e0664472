"""Rendered rows: a conversation in tokens, in which its policy's turns are learned, each in the context that the policy would have seen.

As long as the context of a turn begins with the row so far, the turn goes on in the same row. Where a template rewrites the history
(it drops earlier thinking, or ends the last turn otherwise), a turn begins a row of its own.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..policies.chat import ChatFormat
from ..policies.template import TemplateError
from ..policies.turns import SpokenTurn, spoken_turn
from ..store.messages import Message


@dataclass
class RenderedRow:
    """A row as it grows.

    Attributes:
        prompt_ids: Token ids of the context of its first turn.
        text: All of it as text.
        fresh: The last part of the text, from the start or from the token that ended the turn before, and `fresh_ids` its tokens:
            every tokenizer starts again at such a token, so that no more has to be tokenised to go on.
        response_ids: Token ids from the context on.
        turns: Parallel to response_ids: 1 for a token of a turn.
        mask: Parallel to response_ids: 1 for a token that is learned. Generation marks of the template may leave out some of a turn.
    """

    prompt_ids: list[int]
    text: str
    fresh: str
    fresh_ids: list[int]
    response_ids: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Rendered:
    """A conversation in rows, none of which lacks a learned token.

    Attributes:
        header_differs: Number of turns that begin otherwise than the generation prompt, see SpokenTurn.
    """

    rows: list[RenderedRow]
    header_differs: int


def render_turns(
    chat: ChatFormat,
    prompt: Sequence[Message],
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    untrained: Collection[int] = (),
) -> Rendered:
    """The rows in which the assistant turns of `messages` are learned, and nothing of `prompt`.

    Args:
        untrained: Positions, in prompt and messages together, of turns that are not learned.

    Raises TemplateError when there is no assistant turn, or the template cannot render one.
    """
    if tools and not chat.template.renders_tools:
        raise TemplateError("The model's chat template does not render tools.", "Name one that does with --chat-template FILE.")  # fmt: skip
    rows: list[RenderedRow] = []
    differing = 0
    for at, message in enumerate(messages):
        if message.role != "assistant":
            continue
        turn = spoken_turn(chat.template, [*prompt, *messages[: at + 1]], tools)
        differing += turn.header_differs
        if not rows or not _continues(chat, rows[-1], turn):
            ids = _tokens(chat, turn.context)
            rows.append(RenderedRow(ids, turn.context, turn.context, ids))
        _say(chat, rows[-1], turn, learned=len(prompt) + at not in untrained)
    if not rows:
        raise TemplateError("The conversation has no assistant turn.", "Exclude it from the dataset.")
    return Rendered([row for row in rows if any(row.mask)], differing)


def _continues(chat: ChatFormat, row: RenderedRow, turn: SpokenTurn) -> bool:
    """Appends to the row what stands between its last turn and this one; False when this one has another history."""
    if not turn.context.startswith(row.text):
        return False
    between = turn.context[len(row.text) :]
    end = row.response_ids[-1]
    ids = _after(chat, end, between)
    if ids is None:
        return False
    row.fresh, row.fresh_ids = str(chat.tokenizer.convert_ids_to_tokens(end)) + between, [end, *ids]
    row.response_ids += ids
    row.turns += [0] * len(ids)
    row.mask += [0] * len(ids)
    row.text = turn.context
    return True


def _say(chat: ChatFormat, row: RenderedRow, turn: SpokenTurn, learned: bool) -> None:
    """Appends the turn to the row, whose text is the context of the turn."""
    ids = _said_ids(chat, row, turn.said)
    row.turns += [1] * len(ids)
    row.mask += _learned(chat, ids, turn) if learned else [0] * len(ids)
    row.response_ids += ids
    row.text += turn.said


def _said_ids(chat: ChatFormat, row: RenderedRow, said: str) -> list[int]:
    """The tokens of a turn behind its context. They begin where the context ends: the policy was given the context's tokens."""
    both = _tokens(chat, row.fresh + said)
    if both[: len(row.fresh_ids)] == row.fresh_ids:
        return both[len(row.fresh_ids) :]
    # The tokenizer joins the end of the context and the start of the turn in one token.
    alone = _after(chat, chat.stop_token_ids[0], said)
    return _tokens(chat, said) if alone is None else alone


def _after(chat: ChatFormat, end: int, text: str) -> list[int] | None:
    """The tokens of a text behind a token that ends a turn; None when the two do not stay apart."""
    ids = _tokens(chat, str(chat.tokenizer.convert_ids_to_tokens(end)) + text)
    return ids[1:] if ids and ids[0] == end else None


def _learned(chat: ChatFormat, ids: list[int], turn: SpokenTurn) -> list[int]:
    if not turn.unmarked:
        return [1] * len(ids)
    found: Any = chat.tokenizer(turn.said, add_special_tokens=False, return_offsets_mapping=True)
    spans = found["offset_mapping"] if found["input_ids"] == ids else _spans(chat, ids)
    return [int(not any(left <= start and end <= right for left, right in turn.unmarked)) for start, end in spans]


def _spans(chat: ChatFormat, ids: list[int]) -> list[tuple[int, int]]:
    """The place of each token in the decoded text."""
    ends = [len(str(chat.tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False))) for count in range(len(ids) + 1)]  # fmt: skip
    return list(pairwise(ends))


def _tokens(chat: ChatFormat, text: str) -> list[int]:
    found: Any = chat.tokenizer(text, add_special_tokens=False)
    return list(found["input_ids"])
