"""Templates that models are published with (TRL ships copies): opened, and right about what follows a turn."""

import re
from functools import cache
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.policies.chat import ChatFormat
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task

from ..random_model import byte_tokenizer

TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "Where."}}, "required": ["x"]}}}  # fmt: skip
CALL = Message("assistant", None, (ToolCall("call_0", "look", '{"x": "a"}'),), reasoning="hm")
ANSWER = Message("assistant", "so it is", reasoning="hm")
RESULT = Message("tool", "seen it", tool_call_id="call_0")
MORE = Message("user", "and on")
CONTROL = re.compile(r"<[|｜][^<>\s'\"]+?>|<[a-z_]+\|>|<(?:start_of_turn|end_of_turn|eos|bos)>|</?s>")
# What the model's own generation_config.json names besides.
NAMED = {"gemma4_v5": ["<|tool_response>"], "glm4moe": ["<|user|>", "<|observation|>"]}
TEMPLATES = {  # name: end of a turn, whether it takes tools
    "qwen2_5": ("<|im_end|>", True),
    "qwen3": ("<|im_end|>", True),
    "qwen3_instruct_2507": ("<|im_end|>", True),
    "qwen3_5_think": ("<|im_end|>", True),
    "qwen3_8": ("<|im_end|>", True),
    "nemotron_3_nano": ("<|im_end|>", True),
    "lfm2_2_5": ("<|im_end|>", True),
    "llama3_1": ("<|eot_id|>", True),
    "glm4moe": ("<|user|>", True),
    "gemma4_v5": ("<turn|>", True),
    "gemma3": ("<end_of_turn>", False),
    "phi3_5": ("<|end|>", False),
    "deepseek_r1_distill": ("<｜end▁of▁sentence｜>", False),
}


@cache
def chat_of(name: str) -> ChatFormat:
    import trl

    template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    tokenizer = byte_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": sorted({*CONTROL.findall(template), "<bos>"})})
    tokenizer.bos_token = "<bos>"
    tokenizer.eos_token = "<|endoftext|>"
    return ChatFormat(tokenizer, tokenizer.convert_tokens_to_ids(NAMED.get(name, [])))


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_follows_a_turn_is_the_end_of_the_whole(name: str) -> None:
    chat, (end, tools) = chat_of(name), TEMPLATES[name]
    assert chat.tokenizer.convert_ids_to_tokens(chat.stop_token_ids[0]) == end
    task = Task("test", (Message("user", "look"),), (TOOL,) if tools else ())
    histories = [[ANSWER, MORE], [ANSWER, MORE, ANSWER, MORE]]
    if tools:
        histories += [[CALL, RESULT], [CALL, RESULT, CALL, RESULT], [CALL, RESULT, ANSWER, MORE]]
    for history in histories:
        whole = chat.render([*task.messages, *history], task.tools, generation_prompt=True)
        suffix = chat.suffix_ids(task, history, None)
        assert whole[-len(suffix) :] == suffix
        text = chat.tokenizer.decode(suffix)
        assert text.count(history[-1].text or "") == 1 and "hm" not in text and "so it is" not in text
        assert chat.suffix_ids(task, history, suffix[0]) == suffix[1:]


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "glm4moe"])
def test_parallel_calls_and_broken_arguments_do_not_stop_a_rollout(name: str) -> None:
    chat, task = chat_of(name), Task("test", (Message("user", "look"),), (TOOL,))
    calls = (ToolCall("call_0", "look", '{"x": '), ToolCall("call_1", "look", '{"x": "b"}'))
    both = [RESULT, Message("tool", "seen too", tool_call_id="call_1")]
    text = chat.tokenizer.decode(chat.suffix_ids(task, [Message("assistant", None, calls), *both], None))
    assert text.index("seen it") < text.index("seen too") and "look" not in text


def test_thinking_of_the_last_turn_is_kept_and_of_earlier_ones_may_go() -> None:
    chat, task = chat_of("qwen3"), Task("test", (Message("user", "look"),), ())
    last = chat.tokenizer.decode(chat.render([*task.messages, ANSWER], (), generation_prompt=False))
    earlier = chat.tokenizer.decode(chat.render([*task.messages, ANSWER, MORE], (), generation_prompt=True))
    assert "<think>\nhm\n</think>\n\nso it is" in last and "hm" not in earlier and "so it is" in earlier


def test_a_published_template_that_loses_calls_is_refused() -> None:
    with pytest.raises(ConfigError, match="drops or rewrites the tool calls"):
        chat_of("lfm2")
