"""A template like Nemotron Nano v2's: its last block is left out when it is opened, thinking follows the setting, its calls are read."""

import json
import logging
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.config import ChatOptions
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task

from ..random_model import TEMPLATE, byte_tokenizer
from .templates import NEMOTRON_V2

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TASK = Task("test", (Message("system", "Be brief."), Message("user", "look")), (TOOL,))


def nemotron(folder: Path, **options: object) -> ChatFormat:
    if not folder.exists():
        tokenizer = byte_tokenizer(NEMOTRON_V2)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"]})
        tokenizer.eos_token = "<SPECIAL_12>"
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": "nemotron_h"}))
    return ChatFormat.of(folder, ChatOptions.model_validate(options))


def test_the_block_that_takes_the_last_message_away_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rollhouse"):
        chat = nemotron(tmp_path / "model")
    assert "takes a last assistant message away" in caplog.text
    history = [*TASK.messages, Message("assistant", "I look.", (ToolCall("call_0", "look", '{"x":  1}'),))]
    text = chat.template.text(history, TASK.tools, generation_prompt=False)
    assert '"x":  1' in text and text.rstrip().endswith("<SPECIAL_12>")
    assert "messages[:-1]" in (tmp_path / "model" / "chat_template.jinja").read_text(), "the folder was changed"
    assert "messages[:-1]" not in chat.tokenizer.chat_template


def test_thinking_follows_the_setting(tmp_path: Path) -> None:
    endings = {}
    for thinking in (None, True, False):
        chat = nemotron(tmp_path / "model", enable_thinking=thinking)
        text = str(chat.tokenizer.decode(chat.prompt_ids(TASK)))
        assert "Be brief." in text and "Be brief. " not in text and "/no_think" not in text
        endings[thinking] = text.rpartition("Assistant\n")[2]
    assert endings == {None: "<think>\n", True: "<think>\n", False: "<think></think>"}
    hashes = {nemotron(tmp_path / "model", enable_thinking=value).template_hash for value in (None, True, False)}
    assert len(hashes) == 3


def test_what_is_sampled_between_its_tags_is_a_call(tmp_path: Path) -> None:
    chat = nemotron(tmp_path / "model", enable_thinking=False)
    sampled = chat.tokenizer('Now. <TOOLCALL>[{"name": "look", "arguments": {"x":  1}}]</TOOLCALL>\n<SPECIAL_12>')[
        "input_ids"
    ]
    message, failures = chat.parse(sampled)
    assert [(call.name, call.arguments) for call in message.tool_calls] == [("look", '{"x":  1}')] and not failures
    result = Message("tool", '{"seen": true}', tool_call_id="call_0")
    whole = [*chat.prompt_ids(TASK), *sampled, *chat.suffix_ids(TASK, [message, result], sampled[-1])]
    assert str(chat.tokenizer.decode(whole)).endswith(
        '<TOOL_RESPONSE>[{"seen": true}]</TOOL_RESPONSE>\n<SPECIAL_11>Assistant\n<think></think>'
    )


def test_a_setting_that_changes_nothing_is_refused() -> None:
    named = "{# enable_thinking #}" + TEMPLATE
    with pytest.raises(ConfigError, match="no setting 'enable_thinking'"):
        ChatFormat(byte_tokenizer(named), options=ChatOptions(enable_thinking=False))
    with pytest.raises(ConfigError, match="no setting 'bos'"):
        ChatFormat(byte_tokenizer(), options=ChatOptions(template_kwargs={"bos": "x"}))
