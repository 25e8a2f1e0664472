"""The tool parser that follows from a model's type and template: calls in the form that the family is published with are read."""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.families import PARSERS
from rollhouse.policies.parsers import BUILT_IN
from rollhouse.store.messages import Message

from ..random_model import byte_tokenizer

_PROPERTIES = {"place": {"type": "string"}, "days": {"type": "integer"}}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": _PROPERTIES, "required": ["place"]}}}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_JSON = "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}"
_OPEN, _COMMA, _CLOSE = "{{ '{' }}", "{{ ',' if not loop.last }}", "{{ '}' }}"
_ITEMS = "{% for k, v in c.function.arguments.items() %}"


@dataclass(frozen=True)
class Form:
    """How a family writes a call.

    Attributes:
        parser: Ours or vLLM's.
        wrote: A turn as published models write it, with the call `look(place="Bern", days=2)`.
        template: The same call in Jinja, `c` being the call: as the family's chat template writes it.
        special: Special tokens that the parser wants in the vocabulary.
    """

    parser: str
    wrote: str
    template: str
    special: tuple[str, ...] = ()


NAME, DAYS = "{{ c.function.name }}", '{"place": "Bern", "days": 2}'
_HERMES = Form(
    "hermes",
    f'<tool_call>\n{{"name": "look", "arguments": {DAYS}}}\n</tool_call>',
    f'<tool_call>\n{{"name": "{NAME}", "arguments": {_JSON}}}\n</tool_call>',
)
_CODER = Form(
    "qwen3_coder",
    "<tool_call>\n<function=look>\n<parameter=place>\nBern\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
    f"<tool_call>\n<function={NAME}>\n{_ITEMS}<parameter={{{{ k }}}}>\n{{{{ v }}}}\n</parameter>\n{{% endfor %}}</function>\n</tool_call>",
)
_GRANITE = Form(
    "granite",
    f'<|tool_call|>[{{"name": "look", "arguments": {DAYS}}}]',
    f'<|tool_call|>[{{"name": "{NAME}", "arguments": {_JSON}}}]',
    ("<|tool_call|>",),
)
_V3 = tuple(f"<｜tool▁{what}｜>" for what in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end"))
FORMS = {
    "llama": Form("llama3_json", f'{{"name": "look", "parameters": {DAYS}}}', f'{{"name": "{NAME}", "parameters": {_JSON}}}'),
    "mistral": Form("mistral", f'[TOOL_CALLS] [{{"name": "look", "arguments": {DAYS}}}]', f'[TOOL_CALLS] [{{"name": "{NAME}", "arguments": {_JSON}}}]', ("[TOOL_CALLS]",)),
    "qwen2": _HERMES,
    "qwen3": _HERMES,
    "smollm3": _HERMES,
    "ernie4_5": _HERMES,
    "exaone4": _HERMES,
    "falcon_h1": _HERMES,
    "granitemoehybrid": _HERMES,
    "qwen3_moe": _CODER,
    "qwen3_5_text": _CODER,
    "nemotron_h": _CODER,
    "granite": _GRANITE,
    "glm4_moe": Form(
        "glm45",
        "<tool_call>look\n<arg_key>place</arg_key>\n<arg_value>Bern</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
        f"<tool_call>{NAME}\n{_ITEMS}<arg_key>{{{{ k }}}}</arg_key>\n<arg_value>{{{{ v }}}}</arg_value>\n{{% endfor %}}</tool_call>",
    ),
    "phi3": Form("phi4_mini_json", f'functools[{{"name": "look", "arguments": {DAYS}}}]', f'functools[{{"name": "{NAME}", "arguments": {_JSON}}}]'),
    "olmo3": Form(
        "olmo3",
        '<function_calls>\nlook(place="Bern", days=2)\n</function_calls>',
        f"<function_calls>\n{NAME}({_ITEMS}{{{{ k }}}}={{{{ v | tojson }}}}{_COMMA}{{% endfor %}})\n</function_calls>",
    ),
    "lfm2": Form(
        "lfm2",
        '<|tool_call_start|>[look(place="Bern", days=2)]<|tool_call_end|>',
        f"<|tool_call_start|>[{NAME}({_ITEMS}{{{{ k }}}}={{{{ v | tojson }}}}{_COMMA}{{% endfor %}})]<|tool_call_end|>",
        ("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    "hunyuan_v1_dense": Form("hunyuan_a13b", f'<tool_calls>[{{"name": "look", "arguments": {DAYS}}}]</tool_calls>', f'<tool_calls>[{{"name": "{NAME}", "arguments": {_JSON}}}]</tool_calls>'),
    "minimax_m2": Form(
        "minimax_m2",
        '<minimax:tool_call>\n<invoke name="look">\n<parameter name="place">Bern</parameter>\n<parameter name="days">2</parameter>\n</invoke>\n</minimax:tool_call>',
        f'<minimax:tool_call>\n<invoke name="{NAME}">\n{_ITEMS}<parameter name="{{{{ k }}}}">{{{{ v }}}}</parameter>\n{{% endfor %}}</invoke>\n</minimax:tool_call>',
        ("<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    "deepseek_v3": Form(
        "deepseek_v3",
        f"{_V3[0]}{_V3[1]}function{_V3[2]}look\n```json\n{DAYS}\n```{_V3[3]}{_V3[4]}",
        f"{_V3[0]}{_V3[1]}function{_V3[2]}{NAME}\n```json\n{_JSON}\n```{_V3[3]}{_V3[4]}",
        _V3,
    ),
    "gemma4_text": Form(
        "gemma4",
        '<|tool_call>call:look{place:<|"|>Bern<|"|>,days:2}<tool_call|>',
        f'<|tool_call>call:{NAME}{_OPEN}{_ITEMS}{{{{ k }}}}:<|"|>{{{{ v }}}}<|"|>{_COMMA}{{% endfor %}}{_CLOSE}<tool_call|>',
        ("<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    "cohere2": Form(
        "cohere",
        f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "look", "parameters": {DAYS}}}\n]<|END_ACTION|>',
        f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "{NAME}", "parameters": {_JSON}}}\n]<|END_ACTION|>',
        ("<|START_ACTION|>", "<|END_ACTION|>"),
    ),
}  # fmt: skip
"""By transformers' model type."""


def chat_of(model_type: str | None, form: Form) -> ChatFormat:
    """A chat format whose template writes calls in the family's form."""
    template = (
        "{% for tool in tools or [] %}{{ '<|im_start|>system\n' + tool.function.name + '<|im_end|>\n' }}{% endfor %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
        "{% for c in m.tool_calls or [] %}" + form.template + "{% endfor %}{{ '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = byte_tokenizer(template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(form.special)})
    return ChatFormat(tokenizer, model_type=model_type)


def read(model_type: str | None, form: Form) -> tuple[Message, int]:
    chat = chat_of(model_type, form)
    return chat.parse([*chat.tokenizer.encode(form.wrote), 2], tools=[TOOL])


OURS = {kind: form for kind, form in FORMS.items() if form.parser in BUILT_IN}


@pytest.mark.parametrize("kind", OURS)
def test_built_in(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Read without vLLM, byte for byte."""
    message, failures = read(kind, OURS[kind])
    assert [(call.name, call.arguments) for call in message.tool_calls] == [("look", DAYS)] and not failures
    assert message.text is None and "--tool-parser" not in caplog.text


@pytest.mark.system
def test_vllms() -> None:
    """Importing vLLM takes many seconds, so this is one test."""
    for kind, form in FORMS.items():
        if kind in OURS:
            continue
        message, failures = read(kind, form)
        calls = [(call.name, json.loads(call.arguments)) for call in message.tool_calls]
        assert calls == [("look", json.loads(DAYS))] and not failures, kind
        assert form.parser in PARSERS[kind.removesuffix("_text")], kind


def test_a_form_that_no_parser_reads_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Where the parser is opened, not for each turn; what only renders opens none."""
    form = Form("", f"look\n{DAYS}", f"{NAME}\n{_JSON}")
    chat = chat_of("glm4", form)
    assert "--tool-parser" not in caplog.text
    with caplog.at_level(logging.WARNING, "rollhouse"):
        chat.open_parser()
        chat.parse([*chat.tokenizer.encode(form.wrote), 2], tools=[TOOL])
    assert caplog.text.count("--tool-parser") == 1 and "glm4" in caplog.text


def test_the_page_lists_the_parsers_by_model_type() -> None:
    listed = {tuple(re.findall(r"`(\w+)`", line)) for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    pairs = {(name, kind) for name, *kinds in listed for kind in kinds}
    missing = {(name, kind) for kind, names in PARSERS.items() for name in names} - pairs
    assert not missing, sorted(missing)
