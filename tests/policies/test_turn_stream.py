"""A turn in pieces is the turn, however its tokens come."""

import random

import pytest
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.turn_stream import TurnStream
from rollhouse.store.messages import Message
from rollhouse.tests.random_model import byte_tokenizer

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "}\\"{ü", "n": [1, {"a": 2}]}}\n</tool_call>'
TURNS = [
    "Hello there.\n\n",
    "  spaces  before and after \n",
    "<think>\nFirst ü, then.\n</think>\n\nSo: 😀.",
    "<think>never ends",
    f"I look.\n{CALL}",
    f"{CALL}\n{CALL}",
    f"Text {CALL} behind {CALL}",
    f"<think>\nHm < think\n</think>\n\n{CALL}",
    '<tool_call>\n{"arguments": {"a": 1}, "name": "look"}\n</tool_call>',
    '<tool_call>\n{"name": "look", "arguments": "x"}\n</tool_call>',
    '<tool_call>{"name": "look", "arguments": {"a": broken}}</tool_call>',
    "<tool_call> is a tag, </tool_call> another",
    "a < b <tool",
    "",
]


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    """The byte tokenizer's."""
    return ChatFormat(byte_tokenizer(), [2, 0])


def shown(message: Message) -> tuple[str, str, list[list[str]]]:
    return message.reasoning or "", message.text or "", [[call.name, call.arguments] for call in message.tool_calls]


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("turn", TURNS)
def test_the_pieces_together_are_the_turn(chat: ChatFormat, turn: str, opened: bool) -> None:
    ids = [*chat.tokenizer(turn, add_special_tokens=False)["input_ids"], 2]  # type: ignore[misc]
    before = chat.tokenizer("<think>\n", add_special_tokens=False)["input_ids"] if opened else []
    message, _ = chat.parse(ids, 3, (), before)  # type: ignore[arg-type]
    rng = random.Random(turn)
    for largest in (1, 1, 3, 40):
        stream, at = TurnStream(chat, opened, True, first_call=3), 0
        while at < len(ids):
            step = rng.randint(1, largest)
            stream.feed(ids[at : at + step])  # type: ignore[arg-type]
            at += step
            assert stream.given.begins(message), (turn, stream.given)
        stream.given.rest(message)
        assert (stream.given.reasoning, stream.given.text, stream.given.calls) == shown(message)


def test_text_and_arguments_come_while_they_are_sampled(chat: ChatFormat) -> None:
    stream = TurnStream(chat, False, True)
    kinds = []
    for token in chat.tokenizer(f"I look.\n{CALL}", add_special_tokens=False)["input_ids"]:  # type: ignore[union-attr]
        kinds += [(piece.kind, piece.text) for piece in stream.feed([token])]  # type: ignore[list-item]
    assert [kind for kind, _ in kinds[:5]] == ["text"] * 5 and ("call", "look") in kinds
    assert sum(kind == "arguments" for kind, _ in kinds) > 20
    assert stream.given.calls == [["look", '{"at": "}\\"{ü", "n": [1, {"a": 2}]}']]


def test_a_call_that_is_cut_short_was_given_out_and_is_no_call(chat: ChatFormat) -> None:
    ids: list[int] = list(chat.tokenizer('<tool_call>\n{"name": "look", "arguments": {"a": 1')["input_ids"])  # type: ignore[arg-type]
    stream = TurnStream(chat, False, True)
    stream.feed(ids)
    assert stream.given.calls == [["look", '{"a": 1']]
    with pytest.raises(ValueError, match="given out"):
        stream.given.rest(chat.parse(ids)[0])


def test_a_stop_text_is_never_given_out(chat: ChatFormat) -> None:
    stream, text = TurnStream(chat, False, False, ["END", "x"]), ""
    for token in chat.tokenizer("One EN two END three", add_special_tokens=False)["input_ids"]:  # type: ignore[union-attr]
        text += "".join(piece.text for piece in stream.feed([token]))  # type: ignore[list-item]
    assert stream.stopped and text == "One EN two "
