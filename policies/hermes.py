"""Reads calls between tags: the Hermes form, `<tool_call>`, an object with `name` and `arguments`, `</tool_call>`, and forms that differ in the tags.

A JSON value is decoded where it begins, so tags inside its strings are text of it. What models do beside the form is read where it has one meaning:
several objects or a list between two tags, code fences, a missing or repeated tag, an opening tag in place of the closing one, a missing last brace.
Whatever else follows a call stays text.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from ..store.messages import Message, ToolCall
from .json_calls import Blocks, JsonCalls, Parsed, outside, read_calls, skip_space

_FENCE = "```"
_WORD = re.compile(r"[A-Za-z]*")


def parse_turn(text: str, first_call: int = 0) -> tuple[Message, int]:
    """A decoded turn as an assistant message, and how many of its tool calls did not parse.

    Args:
        first_call: Number of the first call's id, `call_<n>`.
    """
    words, calls, failures = HERMES.parse(text)
    numbered = (ToolCall(f"call_{first_call + i}", name, arguments) for i, (name, arguments) in enumerate(calls))
    return Message("assistant", words, tuple(numbered)), failures


class TaggedCalls:
    """The reader of one pair of tags."""

    def __init__(self, opening: str, closing: str) -> None:
        self._opening = opening
        self._blocks = Blocks(opening, closing)

    def parse(self, text: str) -> Parsed:
        """The calls between the tags.

        Arguments are kept byte for byte as they were written; absent, null and empty ones are `{}`. A call whose arguments alone are broken JSON is
        still a call (the environment answers it with an error) and counts as a failure, like one whose object is not closed; a block that is not a
        call and a closing tag without a call stay in the text and count as one.
        """
        tags = [_Tag(tag.start(), tag.end(), tag[0] == self._opening) for tag in self._blocks.tags.finditer(text)]
        calls: list[tuple[str, str]] = []
        kept: list[str] = []
        failures = position = number = 0
        while number < len(tags):
            first = tags[number]
            if not first.opens:
                repeated = number > 0 and tags[number - 1].end == position and not text[position : first.start].strip()
                position = first.end if repeated else position
                failures += not repeated
                number += 1
                continue
            number = _last_repeated(text, tags, number)
            block = self._read_block(text, tags[number].end)
            failures += block.failures
            if block.calls:
                calls += block.calls
                kept.append(text[position : first.start])
                position = block.end
            number = bisect_left(tags, block.end, lo=number + 1, key=_start)
            if number < len(tags) and (not tags[number].opens or (block.calls and _opens_nothing(text, tags, number))):
                if block.calls:
                    kept.append(text[position : tags[number].start])
                    position = tags[number].end
                number += 1
        return (outside([*kept, text[position:]]) if calls else text), calls, failures

    def _read_block(self, text: str, start: int) -> JsonCalls:
        """The calls after an opening tag; without any, a failure that ends where the block does."""
        reach, end = self._blocks.ends(text, start)
        block = _read_body(text[start:reach], end - start)
        block.end += start
        return block


HERMES = TaggedCalls("<tool_call>", "</tool_call>")
NEMOTRON = TaggedCalls("<TOOLCALL>", "</TOOLCALL>")
COHERE = TaggedCalls("<|START_ACTION|>", "<|END_ACTION|>")


class _Tag(NamedTuple):
    start: int
    end: int
    opens: bool


def _start(tag: _Tag) -> int:
    return tag.start


def _last_repeated(text: str, tags: Sequence[_Tag], number: int) -> int:
    """The number of the last opening tag that follows this one with nothing between."""
    while (
        number + 1 < len(tags)
        and tags[number + 1].opens
        and not text[tags[number].end : tags[number + 1].start].strip()
    ):
        number += 1
    return number


def _opens_nothing(text: str, tags: Sequence[_Tag], number: int) -> bool:
    """Whether an opening tag after a call stands for the closing one: it is the text's end."""
    return number + 1 == len(tags) and not text[tags[number].end :].strip()


def _read_body(text: str, end: int) -> JsonCalls:
    """The calls of a block, in a code fence or not; without any, a failure that ends at `end`."""
    position = skip_space(text, 0)
    fenced = text.startswith(_FENCE, position)
    if fenced:
        position = skip_space(text, _WORD.match(text, position + len(_FENCE)).end())  # type: ignore[union-attr]
    block = read_calls(text, position, end)
    if not block.calls:
        return JsonCalls([], end, 1)
    position = skip_space(text, block.end)
    if fenced and text.startswith(_FENCE, position):
        block.end = position + len(_FENCE)
    return block
