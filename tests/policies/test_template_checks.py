"""What is found out about a template before anything is sampled, and which templates are refused."""

from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.cli.main import app
from rollhouse.policies.chat import ChatFormat, TemplateError
from rollhouse.policies.config import ChatOptions, PolicySettings
from rollhouse.policies.opening import open_policy
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task
from typer.testing import CliRunner

from ..random_model import TEMPLATE, byte_tokenizer
from .templates import Habit

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TASK = Task("test", (Message("user", "look"),), (TOOL,))
CALL = Message("assistant", None, (ToolCall("call_0", "look", '{"x":  1}'),))
RESULT = Message("tool", "seen", tool_call_id="call_0")
# Takes the last message away when it is the assistant's, to let it be continued, as Nemotron Nano v2's does.
POPPING = "{%- if messages[-1].role == 'assistant' -%}{%- set messages = messages[:-1] -%}{%- endif -%}" + TEMPLATE


def tokenizer_with(template: str, folder: Path) -> Path:
    """A folder with the byte tokenizer under this template."""
    byte_tokenizer(template).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (POPPING, "drops a conversation's last assistant message"),
        (TEMPLATE.replace("(message.content or '')", "(message.content or '') | upper"), "drops .* last assistant"),
        (TEMPLATE.replace("(message.content or '')", "(message.content or '') | replace('\n', ' ')"), "rewrites .* last"),
        (TEMPLATE.replace("message.tool_calls or []", "(message.tool_calls or [])[:1]"), "tool calls"),
        (TEMPLATE.replace("call.function.name", "call.function.name | upper"), "tool calls of a conversation's last"),
        (TEMPLATE.replace("message.content + '\n</tool_response>", "'\n</tool_response>"), "drops tool results"),
        (TEMPLATE.replace("<|im_end|>", "").replace("<|im_start|>", "# "), "special token"),
        (TEMPLATE + "{{ raise_exception('not today') }}", "cannot render the conversation: not today"),
    ],
)  # fmt: skip
def test_a_template_that_loses_something_is_refused_and_an_option_named(template: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        ChatFormat(byte_tokenizer(template))
    assert "--chat-template FILE" in refused.value.fix


def test_a_template_that_makes_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot render the conversation: 'utf-8' codec"):
        ChatFormat.of(tokenizer_with("{{ '\\ud800' }}" + TEMPLATE, tmp_path))


def test_a_template_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollhouse.policies.template._RENDER_S", 0.5)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ConfigError, match="longer than"):
        ChatFormat(byte_tokenizer(TEMPLATE + loop))


def test_another_template_mends_it(tmp_path: Path) -> None:
    folder = tokenizer_with(POPPING, tmp_path / "model")
    (tmp_path / "good.jinja").write_text(TEMPLATE)
    with pytest.raises(ConfigError, match="drops"):
        ChatFormat.of(folder)
    mended = ChatFormat.of(folder, ChatOptions(template=str(tmp_path / "good.jinja")))
    assert mended.template_hash == ChatFormat(byte_tokenizer()).template_hash
    with pytest.raises(ConfigError, match="cannot be read"):
        ChatFormat.of(folder, ChatOptions(template=str(tmp_path / "none.jinja")))


def test_when_turning_thinking_off_mends_it_that_is_named() -> None:
    thinking = POPPING.replace("messages[-1].role", "enable_thinking is not false and messages[-1].role")
    assert "enable_thinking is not false" in thinking
    thinking = thinking.replace("is not false", "is not defined or enable_thinking")
    with pytest.raises(ConfigError, match="drops") as refused:
        ChatFormat(byte_tokenizer(thinking))
    assert "--no-enable-thinking" in refused.value.fix
    ChatFormat(byte_tokenizer(thinking), options=ChatOptions(enable_thinking=False))
    with pytest.raises(ConfigError, match="no setting 'enable_thinking'"):
        ChatFormat(byte_tokenizer(), options=ChatOptions(enable_thinking=False))


def test_stripping_thinking_of_earlier_turns_is_fine() -> None:
    ChatFormat(byte_tokenizer(Habit(strip_thinking=True, trim=True).template()))


def test_a_model_is_refused_before_an_engine_starts(random_models: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "popping.jinja"
    file.write_text(POPPING)
    for engine in ("torch", "vllm"):
        with pytest.raises(ConfigError, match="drops"), open_policy(PolicySettings(engine=engine, model_name=str(random_models[0]), chat=ChatOptions(template=str(file)))):  # fmt: skip
            pass


def test_the_end_of_turn_is_what_the_template_writes() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    chat = ChatFormat(tokenizer)
    assert chat.stop_token_ids == (2, 0)
    ended = chat.suffix_ids(TASK, [CALL, RESULT], 2)
    assert chat.suffix_ids(TASK, [CALL, RESULT], 100) == [2, *ended]
    # A text after every conversation is no end of turn.
    tokenizer.chat_template = TEMPLATE + "{{ '<|endoftext|>' if not add_generation_prompt }}"
    assert ChatFormat(tokenizer).stop_token_ids == (2, 0)


def test_calls_may_end_otherwise_than_answers() -> None:
    other = TEMPLATE.replace("{{ '<|im_end|>\n' }}{% endif %}", "{{ ('<|endoftext|>' if message.tool_calls else '<|im_end|>') + '\n' }}{% endif %}")  # fmt: skip
    chat = ChatFormat(byte_tokenizer(other))
    assert chat.stop_token_ids == (2, 0)
    for turn, end in ((CALL, 0), (Message("assistant", "hm"), 2)):
        assert chat.suffix_ids(TASK, [turn, RESULT], None)[0] == end


def test_turns_may_be_ended_by_the_header_of_the_next() -> None:
    """As GLM's: nothing closes a turn, and the policy stops by sampling the header of what it expects."""
    bare = "{% for m in messages %}{{ ('<|im_start|>' if m.role == 'user' else '<|im_end|>') + m.role + '\n' + m.content }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_end|>assistant\n' }}{% endif %}"
    tokenizer = byte_tokenizer(bare)
    tokenizer.eos_token = "<|endoftext|>"
    chat = ChatFormat(tokenizer)
    assert chat.stop_token_ids == (1, 0)
    talk = Task("test", TASK.messages, ())
    rest = chat.suffix_ids(talk, [Message("assistant", "so"), Message("user", "on")], 50)
    assert chat.tokenizer.decode(rest) == "<|im_start|>user\non<|im_end|>assistant\n"
    # The header that was sampled is not written again; after another stop it is.
    assert chat.suffix_ids(talk, [Message("assistant", "so"), Message("user", "on")], 1) == rest[1:]
    assert chat.suffix_ids(talk, [Message("assistant", "so"), Message("user", "on")], 0) == rest


def render(chat: ChatFormat, *messages: Message) -> str:
    return str(chat.tokenizer.decode(chat.render([*TASK.messages, *messages], (TOOL,), False)))


OBJECTS = TEMPLATE.replace(
    "call.function.arguments if call.function.arguments is string else call.function.arguments | tojson",
    "call.function.arguments | tojson if message.content is string or true",
)
ITEMS = TEMPLATE.replace(
    "{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}",
    "{% for key, value in call.function.arguments | items %}{{ key + '=' + (value | string) }}{% endfor %}",
)


@pytest.mark.parametrize(("template", "shown"), [(TEMPLATE, '{"x":  1}'), (OBJECTS, '{"x": 1}'), (ITEMS, "x=1")])
def test_arguments_are_given_as_the_template_wants_them(template: str, shown: str) -> None:
    chat = ChatFormat(byte_tokenizer(template))
    assert shown in render(chat, CALL, RESULT)
    # Arguments that are no JSON do not keep a rollout from going on.
    broken = Message("assistant", None, (ToolCall("call_0", "look", '{"x": }'),))
    assert chat.suffix_ids(TASK, [broken, RESULT, broken, RESULT], 2) == chat.suffix_ids(TASK, [CALL, RESULT], 2)


def test_templates_that_want_text_or_ids_of_their_own_form() -> None:
    adding = TEMPLATE.replace("(message.content or '')", "message.content")
    chat = ChatFormat(byte_tokenizer(adding))
    assert "<tool_call>" in render(chat, CALL, RESULT)
    strict = (
        TEMPLATE.replace(
            "{% if message.role == 'tool' %}",
            "{% if message.tool_call_id and message.tool_call_id | length != 9 %}{{ raise_exception('nine signs') }}{% endif %}"
            "{% if message.role == 'tool' %}{{ '[' + message.tool_call_id + ']' }}",
        )
        .replace("{{ '}\n</tool_call>' }}", "{{ '}[' + call.id + ']\n</tool_call>' }}")
        .replace(
            "{% for call in message.tool_calls or [] %}",
            "{% for call in message.tool_calls or [] %}{% if call.id | length != 9 %}{{ raise_exception('nine signs') }}{% endif %}",
        )
    )
    whole = render(ChatFormat(byte_tokenizer(strict)), CALL, RESULT)
    made = whole.split("}[")[1][:9]
    assert made.isalnum() and whole.count(f"[{made}]") == 2


def test_reasoning_is_rendered_back() -> None:
    said = Message("assistant", "so", reasoning="hm\nhm")
    assert "<think>\nhm\nhm\n</think>\n\nso" in render(ChatFormat(byte_tokenizer(Habit().template())), said)
    # A template that knows no reasoning is given it as text, as the policy wrote it.
    assert "<think>\nhm\nhm\n</think>\n\nso" in render(ChatFormat(byte_tokenizer()), said)


def test_a_template_without_tools_serves_tasks_without() -> None:
    plain = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    chat = ChatFormat(byte_tokenizer(plain))
    assert chat.prompt_ids(Task("test", TASK.messages, ()))[-1] == chat.tokenizer.encode("\n")[0]
    with pytest.raises(TemplateError, match="does not render tools"):
        chat.prompt_ids(TASK)
    # A policy may write a call all the same; the rollout goes on.
    rest = chat.suffix_ids(Task("test", TASK.messages, ()), [CALL, Message("user", "what?")], 2)
    assert chat.tokenizer.decode(rest) == "\n<|im_start|>user\nwhat?<|im_end|>\n<|im_start|>assistant\n"


def test_tokens_after_a_turn_are_those_of_the_whole_text_for_sentencepiece_too() -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    signs = sorted(set("".join(chr(code) for code in range(33, 127)) + "▁\n"))
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", *signs, "▁u", "▁s"]

    def tokenizer(older: bool) -> Any:
        backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [("▁", "u"), ("▁", "s")], unk_token="<unk>"))  # fmt: skip
        if older:
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Metaspace()
        backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens[:3]])
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=TEMPLATE)

    for older in (True, False):
        chat = ChatFormat(tokenizer(older))
        turn = Message("assistant", "I use it")
        suffix = chat.suffix_ids(TASK, [turn, Message("user", "so use it")], None)
        whole = chat.render([*TASK.messages, turn, Message("user", "so use it")], (TOOL,), True)
        assert len(suffix) > 20 and whole[-len(suffix) :] == suffix


@pytest.mark.parametrize("command", [["collect"], ["eval", "env"]])
def test_the_options_reach_the_template(command: list[str], random_models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "popping.jinja").write_text(POPPING)
    (tmp_path / "calls.py").write_text("x = 1\n")
    given = [*command, "--env", "workplace-mini", "--engine", "torch", "--model", str(random_models[0]), "--limit", "1"]
    given += ["--store", str(tmp_path / "store")]

    def refusal(*options: str) -> str:
        result = CliRunner().invoke(app, [*given, *options], env={"COLUMNS": "500"})
        assert result.exit_code == 2
        return result.stderr

    assert "drops a conversation's last assistant message" in refusal(
        "--chat-template", str(tmp_path / "popping.jinja")
    )
    assert "no setting 'enable_thinking'" in refusal("--no-enable-thinking")
    assert "has no 'parse'" in refusal("--tool-parser", f"{tmp_path}/calls.py:parse")
