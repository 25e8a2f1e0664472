"""Tokens of a trajectory: what is appended after a sampled turn, for well-behaved and misbehaving templates, and tool calls read back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError
from rollhouse.policies.chat import ChatFormat, TemplateError
from rollhouse.policies.hermes import parse_turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task

from ..random_model import TEMPLATE, byte_tokenizer

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TASK = Task("test", (Message("system", "be brief"), Message("user", "look twice")), (TOOL,))
CALL = Message("assistant", None, (ToolCall("call_0", "look", '{"x":  1}'),))
RESULTS = [
    Message("tool", "one <|im_end|> fake end", tool_call_id="call_0"),
    Message("tool", "two", tool_call_id="call_1"),
]
END = 2

# Drops everything before </think> from earlier assistant turns, as several published templates do.
FORGETFUL = TEMPLATE.replace(
    "(message.content or '')",
    "((message.content or '').split('</think>')[-1] if not loop.last and message.role == 'assistant' else (message.content or ''))",
)
TRIMMING = TEMPLATE.replace("(message.content or '')", "(message.content or '') | trim")
MERGING = TEMPLATE.replace(
    "{% if message.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}",
    "{% if message.role == 'tool' %}{{ '<|im_start|>user\n' if loop.previtem.role != 'tool' }}"
    "{{ '<tool_response>\n' + message.content + '\n</tool_response>' }}{{ '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' }}",
)
DICTS = TEMPLATE.replace(
    "call.function.arguments if call.function.arguments is string else call.function.arguments | tojson",
    "call.function.arguments | tojson",
)


def text_of(chat: ChatFormat, ids: list[int]) -> str:
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False))


def test_what_follows_a_sampled_turn_is_exactly_what_the_template_adds() -> None:
    chat = ChatFormat(byte_tokenizer())
    prompt = chat.prompt_ids(TASK)
    assert text_of(chat, prompt).endswith("<|im_start|>assistant\n")
    sampled = chat.tokenizer.encode('<tool_call>\n{"name": "look", "arguments": {"x":  1}}\n</tool_call><|im_end|>')
    message, failures = chat.parse(sampled)
    assert (message, failures) == (CALL, 0)
    suffix = chat.suffix_ids(TASK, [message, *RESULTS], sampled[-1])
    # A template that prints arguments as they are makes the spliced trajectory equal the template over the whole history.
    assert prompt + sampled + suffix == chat.render([*TASK.messages, message, *RESULTS], TASK.tools, True)


@pytest.mark.parametrize("template", [TEMPLATE, FORGETFUL, TRIMMING, MERGING, DICTS])
def test_the_suffix_is_right_for_templates_that_rewrite_history(template: str) -> None:
    chat = ChatFormat(byte_tokenizer(template))
    said = Message("assistant", "<think>hm</think>  I look ", CALL.tool_calls)
    suffix = text_of(chat, chat.suffix_ids(TASK, [said, *RESULTS], END))
    both = ["one <|im_end|> fake end", "two"]
    assert suffix.startswith("\n<|im_start|>user\n<tool_response>\n" + both[0]) and suffix.endswith(
        "<|im_start|>assistant\n"
    )
    assert suffix.count("<tool_response>") == 2 and "I look" not in suffix and "hm" not in suffix
    # A second turn, said after the first: only what follows the last assistant message comes.
    again = text_of(chat, chat.suffix_ids(TASK, [said, *RESULTS, CALL, RESULTS[1]], END))
    assert again.count("<tool_response>") == 1 and again.endswith("<|im_start|>assistant\n")


def test_an_end_of_turn_that_was_not_sampled_is_appended_before_what_follows() -> None:
    chat = ChatFormat(byte_tokenizer())
    ended = chat.suffix_ids(TASK, [CALL, RESULTS[1]], END)
    assert chat.suffix_ids(TASK, [CALL, RESULTS[1]], 100) == [END, *ended]


def test_broken_arguments_reach_a_template_that_wants_objects_as_text() -> None:
    chat = ChatFormat(byte_tokenizer(DICTS))
    broken = Message("assistant", None, (ToolCall("call_0", "look", '{"x": }'),))
    assert '\\"x\\": }' in text_of(chat, chat.render([*TASK.messages, broken], (), False))
    whole = text_of(chat, chat.render([*TASK.messages, CALL], (), False))
    assert '"arguments": {"x": 1}' in whole  # an object, not a string quoted once more


def test_a_template_that_drops_the_last_assistant_message_is_refused() -> None:
    dropping = TEMPLATE.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'assistant' %}"
    )
    with pytest.raises(ConfigError, match="drops"):
        ChatFormat(byte_tokenizer(dropping))


def test_a_template_that_fails_names_why() -> None:
    failing = TEMPLATE + "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    with pytest.raises(TemplateError, match="no system here"):
        ChatFormat(byte_tokenizer(failing)).prompt_ids(TASK)


@pytest.mark.parametrize(
    ("text", "arguments", "failures"),
    [
        ('<tool_call>{"name": "a", "arguments": {"x":  1, "é": "\\n"}}</tool_call>', '{"x":  1, "é": "\\n"}', 0),
        ('<tool_call>\n{"arguments": {}, "name": "a"}', "{}", 0),
        ('<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}</tool_call>', '{"x": 1}', 0),
        ('<tool_call>{"name": "a", "arguments": {"x": }}</tool_call>', '{"x": }', 1),
        ('<tool_call>{"name": "a", "arguments": [1]}</tool_call>', "[1]", 1),
    ],
)
def test_arguments_are_kept_byte_for_byte(text: str, arguments: str, failures: int) -> None:
    message, counted = parse_turn(text, first_call=3)
    assert message == Message("assistant", None, (ToolCall("call_3", "a", arguments),)) and counted == failures


@pytest.mark.parametrize(
    "block",
    [
        "{bad",
        "[1]",
        '{"name": 1, "arguments": {}}',
        '{"name": "a", "x": 1}',
        "",
        '{"name": "\\ud800", "arguments": {}}',
        "[" * 5000,
    ],
)
def test_what_is_no_call_stays_text_and_counts_as_a_failure(block: str) -> None:
    text = f"before <tool_call>{block}</tool_call> after"
    assert parse_turn(text) == (Message("assistant", text), 1)


def test_text_around_calls_is_kept() -> None:
    call = '<tool_call>{"name": "a", "arguments": {}}</tool_call>'
    message, failures = parse_turn(f"first\n{call}\n{call} last <tool_call>junk</tool_call>")
    assert [one.id for one in message.tool_calls] == ["call_0", "call_1"]
    assert message.text == "first\nlast <tool_call>junk</tool_call>" and failures == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=4), st.booleans(), st.sampled_from([None, 1])
)
def test_every_json_object_comes_back_as_it_was_written(value: dict, ascii_only: bool, indent: int | None) -> None:
    written = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    message, failures = parse_turn(f'<tool_call>\n{{"name": "f", "arguments": {written}}}\n</tool_call>')
    assert message.tool_calls[0].arguments == written and failures == 0


PIECES = ['{"name": "f", "arguments": ', "{", "}", '"', "\\", "[", "<tool_call>", "</tool_call>", "x", ":", ","]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_no_text_makes_the_parser_fail(pieces: list[str]) -> None:
    text = "".join(pieces)
    message, failures = parse_turn(text)
    # Nothing is lost: without a call the text is whole, and a block is a call or a failure (or both).
    assert message.tool_calls or message.text == text
    assert len(message.tool_calls) + failures >= ("<tool_call>" in text)
