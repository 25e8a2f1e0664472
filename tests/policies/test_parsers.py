"""Thinking is separated from text, and calls are read by a user's plug-in or by vLLM's parsers."""

import re
from pathlib import Path

import pytest
from rollhouse.base.config import content_hashes
from rollhouse.base.errors import ConfigError, FormatError
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.config import ChatOptions
from rollhouse.policies.parsers import split_thinking
from rollhouse.store.messages import Message, ToolCall

from ..random_model import byte_tokenizer

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
PLUGIN = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("so", False, (None, "so")),
        ("<think>\nhm\n</think>\n\nso", False, ("hm", "so")),
        ("\n<think>hm</think>  so ", False, ("hm", "  so ")),
        ("hm\n</think>\nso", True, ("hm", "so")),
        ("<think>hm</think>so", True, ("hm", "so")),
        ("hm <think> so", False, (None, "hm <think> so")),
        ("a </think> b", False, (None, "a </think> b")),
        ("<think>no end", False, ("no end", "")),
        ("no end", True, ("no end", "")),
        ("<think></think>so", False, ("", "so")),
    ],
)
def test_thinking(text: str, opened: bool, expected: tuple[str | None, str]) -> None:
    assert split_thinking(text, opened) == expected


def test_calls_in_thinking_are_thoughts() -> None:
    chat = ChatFormat(byte_tokenizer())
    call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    sampled = chat.tokenizer.encode(f"<think>or {call}?</think>{call}")
    expected = Message("assistant", None, (ToolCall("call_4", "look", "{}"),), reasoning=f"or {call}?")
    assert chat.parse([*sampled, 2], first_call=4) == (expected, 0)
    # The prompt that opened the thinking is seen in tokens, however many it takes to spell it.
    prompt = chat.tokenizer.encode("<|im_start|>assistant\n<think>\n")
    assert chat.parse(chat.tokenizer.encode("hm</think>so"), before=prompt)[0].reasoning == "hm"
    assert chat.parse(chat.tokenizer.encode("hm"), before=[*prompt, 9])[0].reasoning is None


def chat_with(folder: Path, source: str, name: str = "parse") -> ChatFormat:
    file = folder / "calls.py"
    file.write_text(source)
    return ChatFormat(byte_tokenizer(), options=ChatOptions(tool_parser=f"{file}:{name}"))


def test_a_file_of_the_users_reads_calls(tmp_path: Path) -> None:
    chat = chat_with(tmp_path, PLUGIN)
    sampled = chat.tokenizer.encode('<think>hm</think>I look\n@look {"x":  1}\n@look {bad')
    message, failures = chat.parse([*sampled, 2], first_call=2, tools=[TOOL])
    assert failures == 1 and (message.text, message.reasoning) == ("I look", "hm")
    assert message.tool_calls == (ToolCall("call_2", "look", '{"x":  1}'), ToolCall("call_3", "look", "{bad"))
    hashes = [content_hashes(ChatOptions(tool_parser=f"{tmp_path}/calls.py:{name}"))["tool_parser"] for name in ("parse", "other")]  # fmt: skip
    assert hashes[1] == f"{hashes[0]}:other" and not content_hashes(ChatOptions())


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("x = 1\n", "has no 'parse'"),
        ("parse = 1\n", "neither a function nor a parser class"),
        ("import no_such_package_here\n", "No module named"),
        ("def parse(text:\n", "SyntaxError"),
    ],
)
def test_a_file_that_reads_nothing_is_refused(tmp_path: Path, source: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        chat_with(tmp_path, source)


@pytest.mark.parametrize("value", ["None", "(1, [], 0)", "('a', [('b', {})], 0)", "('a', ['b'], 0)", "('a', [])"])
def test_what_a_file_returns_is_checked(tmp_path: Path, value: str) -> None:
    chat = chat_with(tmp_path, f"def parse(text):\n    return {value}\n")
    with pytest.raises(FormatError, match="did not return"):
        chat.parse([60, 61])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tool parser file .*none\.py cannot be read"):
        ChatFormat(byte_tokenizer(), options=ChatOptions(tool_parser=f"{tmp_path}/none.py:parse"))
    with pytest.raises(ConfigError, match=r"tool_parser .*none\.py:parse cannot be read"):
        content_hashes(ChatOptions(tool_parser=f"{tmp_path}/none.py:parse"))


VLLM_PLUGIN = """
from vllm.entrypoints.generate.base.protocol import ExtractedToolCallInformation, FunctionCall, ToolCall
from vllm.tool_parsers import ToolParser, ToolParserManager


@ToolParserManager.register_module("at_signs")
class AtSigns(ToolParser):
    def extract_tool_calls(self, model_output, request):
        if not model_output.startswith("@"):
            return ExtractedToolCallInformation(tools_called=False, tool_calls=[], content=model_output)
        name, _, arguments = model_output[1:].partition(" ")
        call = ToolCall(type="function", function=FunctionCall(name=name, arguments=arguments))
        return ExtractedToolCallInformation(tools_called=True, tool_calls=[call], content=None)
"""


@pytest.mark.system
def test_vllms_parsers_by_name_and_from_a_file(tmp_path: Path) -> None:
    """Importing vLLM takes many seconds, so this is one test."""

    def parse(chat: ChatFormat, text: str) -> tuple[Message, int]:
        return chat.parse([*chat.tokenizer.encode(text), 2], tools=[TOOL])

    def named(name: str) -> ChatFormat:
        return ChatFormat(byte_tokenizer(), options=ChatOptions(tool_parser=name))

    call = Message("assistant", None, (ToolCall("call_0", "look", '{"x": 1}'),))
    tagged = "<tool_call>\n<function=look>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>"
    assert parse(named("qwen3_coder"), tagged) == (call, 0)  # a number, as in the tool's schema
    pythonic = parse(named("pythonic"), "<think>hm</think>[look(x=1), look(x=2)]")[0]
    assert pythonic.reasoning == "hm" and [one.arguments for one in pythonic.tool_calls] == ['{"x": 1}', '{"x": 2}']
    assert parse(named("pythonic"), "just words") == (Message("assistant", "just words"), 0)
    longcat = named("longcat")  # the Hermes form between other tags: it only logs what it cannot read
    broken = "<longcat_tool_call>{bad</longcat_tool_call>"
    assert parse(longcat, broken) == (Message("assistant", broken), 1)
    with pytest.raises(ConfigError, match="no tool parser 'absent'") as unknown:
        named("absent")
    assert "qwen3_coder" in unknown.value.fix and "FILE.py:name" in unknown.value.fix
    with pytest.raises(ConfigError, match="does not fit this model"):
        named("jamba")
    with pytest.raises(ConfigError, match="no text of a whole turn"):
        named("openai")

    chat = chat_with(tmp_path, VLLM_PLUGIN, "AtSigns")
    assert parse(chat, '@look {"x": 1}') == (call, 0)
    assert parse(chat, "@look {") == (Message("assistant", None, (ToolCall("call_0", "look", "{"),)), 1)
