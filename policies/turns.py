"""An assistant turn as its policy would have sampled it: the text before it, and its own text, end of turn included.

Both are rendered by the template: the history with the generation prompt, and the history with the turn as its last message. So an
earlier turn that a template rewrites later is still seen as it was, and nothing of the history is taken for a part of the turn.
"""

import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..store.messages import Message
from .template import MARK, Template, TemplateError, Tools, marked

_SPACE = re.compile(r"\s+")
_FIX = "Name another template with --chat-template FILE (policy.chat.template in a recipe)."


@dataclass(frozen=True)
class SpokenTurn:
    """The last message of a conversation, an assistant turn.

    Attributes:
        context: What the policy is given: the history and the generation prompt.
        said: The turn's text, up to and with the token that ends it.
        unmarked: Spans (start, end) of `said` outside the generation marks of the template, which are not learned. Empty for a template
            without marks.
        header_differs: The generation prompt is not how the template begins this turn, as when the prompt opens a thinking that the
            turn does not have. The context then ends where the two part.
    """

    context: str
    said: str
    unmarked: tuple[tuple[int, int], ...] = ()
    header_differs: bool = False


def spoken_turn(template: Template, messages: Sequence[Message], tools: Tools) -> SpokenTurn:
    """The last message as the policy would have sampled it.

    Raises TemplateError when the template cannot render the conversation, changes its history because of the turn, or loses a
    part of the turn.
    """
    *history, turn = messages
    if not template.habits.arguments_as_text:
        _refuse_malformed(messages)
    given = template.text(history, tools, generation_prompt=True)
    other = _training_template(template.tokenizer.get_chat_template())
    try:
        whole, marks = template.text_with_marks(messages, tools)
        if marks is None and other is not None:
            marks = _marks_of(template, messages, tools, other, whole)
        return _turn(template, given, history, turn, tools, whole, marks)
    except TemplateError as error:
        if other is None:
            raise
        try:  # TRL's version for training renders the thinking that some published templates drop
            whole, marks = template.text_with_marks(messages, tools, other)
            return _turn(template, given, history, turn, tools, whole, marks, other)
        except TemplateError:
            raise error from None


def _marks_of(
    template: Template, messages: Sequence[Message], tools: Tools, other: str, whole: str
) -> list[tuple[int, int]] | None:
    """The marks of TRL's version of the template, if it renders the same text: they leave out a header that the generation prompt lacks."""
    try:
        text, marks = template.text_with_marks(messages, tools, other)
    except TemplateError:
        return None
    return marks if text == whole else None


def _turn(
    template: Template,
    given: str,
    history: list[Message],
    turn: Message,
    tools: Tools,
    whole: str,
    marks: Sequence[tuple[int, int]] | None,
    other: str | None = None,
) -> SpokenTurn:
    probe, _ = template.text_with_marks([*history, marked(turn, template.renders_tools)], tools, other, lenient=True)
    tail, end = _tail(template, probe, turn)
    if not whole.endswith(tail):
        raise TemplateError("The chat template ends a turn differently with other content.", _FIX)
    stop = len(whole) - len(tail)
    seen = given if other is None else template.apply(history, tools, chat_template=other, add_generation_prompt=True, tokenize=False)  # fmt: skip
    start = min(_common(seen, whole), stop)
    header = seen[start:]  # of the generation prompt, and no part of this turn
    if header:
        before = template.apply(history, tools, chat_template=other, add_generation_prompt=False, tokenize=False)
        if not seen.startswith(before) or start < len(before) or not given.endswith(header):
            raise TemplateError("The chat template renders the history before a turn differently once the turn is there.", _FIX)  # fmt: skip
    said = whole[start:stop] + end
    _refuse_lost(said, turn)
    shown = stop + (len(end) if tail else 0)  # a header that ends the turn is no part of the rendered text
    spans = () if marks is None else _outside(marks, start, shown, len(said))
    return SpokenTurn(given.removesuffix(header), said, spans, bool(header))


def _tail(template: Template, probe: str, turn: Message) -> tuple[str, str]:
    """(what stands behind the turn's content when it is the last message, the text that ends the turn)."""
    _, mark, rest = probe.rpartition(MARK)
    if not mark:
        raise TemplateError("The chat template drops an assistant turn.", _FIX)
    found = min(((at, -len(end), end) for end in template.ends if (at := rest.find(end)) >= 0), default=None)
    if found is not None:
        return rest[found[0] :], found[2]
    if not template.ends_are_headers:
        raise TemplateError("The chat template does not end a turn of this form.", _FIX)
    # The header of what follows ends the turn. What stands behind the mark closes the turn's calls and belongs to it.
    return "", template.end_of(bool(turn.tool_calls))


def _outside(marks: Sequence[tuple[int, int]], start: int, shown: int, length: int) -> tuple[tuple[int, int], ...]:
    """The parts of a turn that no mark covers, as spans of its text. What is not `shown` (up to there) counts as marked when a mark reaches it."""
    gaps, at = [], 0
    for left, right in sorted(marks):
        left, right = left - start, right - start
        right = length if right >= shown - start else right
        if right <= 0 or left >= length:
            continue
        if left > at:
            gaps.append((at, left))
        at = max(at, right)
    if at < length:
        gaps.append((at, length))
    return tuple(gaps)


def _refuse_malformed(messages: Sequence[Message]) -> None:
    """Raises TemplateError when arguments do not parse, for a template that takes them as objects: it would print something else."""
    for call in (call for message in messages for call in message.tool_calls):
        try:
            json.loads(call.arguments)
        except (ValueError, RecursionError):
            raise TemplateError("The arguments of a tool call are malformed, and the chat template takes objects.", _FIX) from None  # fmt: skip


def _refuse_lost(said: str, turn: Message) -> None:
    """Raises TemplateError when a part of the turn is not in its text. White space is not compared, because templates trim it."""
    shown = _SPACE.sub("", said)
    parts = {"text": [turn.text], "reasoning": [turn.reasoning], "tool calls": [call.name for call in turn.tool_calls]}
    for what, texts in parts.items():
        if any(text and _SPACE.sub("", text) not in shown for text in texts):
            raise TemplateError(f"The chat template loses the {what} of an assistant turn.", _FIX)
    if turn.reasoning and turn.tool_calls:
        thought, call = (shown.find(_SPACE.sub("", text)) for text in (turn.reasoning, turn.tool_calls[0].name))
        if thought > call:
            raise TemplateError("The chat template renders the reasoning of an assistant turn behind its tool calls.", _FIX)  # fmt: skip


@lru_cache(maxsize=16)
def _training_template(source: str) -> str | None:
    """TRL's version for training of a published template; None when TRL has none or is not installed."""
    folder = _training_folder()
    if folder is None:
        return None
    for file in sorted(folder.glob("*_training.jinja")):
        original = file.with_name(file.name.replace("_training", ""))
        if original.is_file() and original.read_text() == source:
            return file.read_text()
    return None


def _training_folder() -> Path | None:
    found = importlib.util.find_spec("trl")
    return None if found is None or found.origin is None else Path(found.origin).parent / "chat_templates"


def _common(one: str, other: str) -> int:
    """The length of the common beginning."""
    if other.startswith(one):
        return len(one)
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), min(len(one), len(other)))  # fmt: skip
