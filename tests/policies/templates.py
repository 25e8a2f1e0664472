"""Chat templates with bad habits, alone or together, and what each must render after an assistant turn."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rollhouse.store.messages import Message

HEADER = "<|im_start|>"
END = "<|im_end|>"
_TEXT = (
    "{%- set at = namespace(user=-1) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set at.user = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- if default_system and messages[0].role != 'system' -%}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{%- endif -%}"
    "{%- if tools and not late_tools -%}{{ TOOLS }}{%- endif -%}"
    "{%- for m in messages -%}"
    "{%- set body = m.content or '' -%}"
    "{%- if strip_thinking and m.role == 'assistant' and loop.index0 < at.user -%}{%- set body = body.split('</think>')[-1] -%}{%- endif -%}"
    "{%- if trim -%}{%- set body = body | trim -%}{%- endif -%}"
    "{%- if m.role == 'tool' -%}"
    "{%- if not merge or loop.first or loop.previtem.role != 'tool' -%}{{ '<|im_start|>user\n' }}{%- endif -%}"
    "{{ '<tool_response>\n' + body + '\n</tool_response>' }}"
    "{%- if not merge or loop.last or loop.nextitem.role != 'tool' -%}{{ '<|im_end|>\n' }}{%- else -%}{{ '\n' }}{%- endif -%}"
    "{%- else -%}"
    "{%- if tools and late_tools and loop.index0 == at.user -%}{{ TOOLS }}{%- endif -%}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.reasoning_content and not (strip_thinking and loop.index0 < at.user) -%}"
    "{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{%- endif -%}"
    "{{ body }}"
    "{%- for call in m.tool_calls or [] -%}"
    "{{ '\n' if not loop.first or body }}{{ '<tool_call>\n{\"name\": \"' + call.function.name + '\", \"arguments\": ' }}"
    "{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}{{ '}\n</tool_call>' }}"
    "{%- endfor -%}{{ '<|im_end|>\n' }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' + ('<think>\n' if opens_thinking else '') }}{%- endif -%}"
)


@dataclass(frozen=True)
class Habit:
    """What a template does.

    Attributes:
        strip_thinking: Thinking of turns before the last user message is left out.
        trim: White space around every content is left out.
        late_tools: Tools stand next to the last user message, wherever that is.
        merge: Neighbouring tool results are one turn.
        default_system: A system prompt is put where there is none.
        opens_thinking: The generation prompt ends in `<think>`.
    """

    strip_thinking: bool = False
    trim: bool = False
    late_tools: bool = False
    merge: bool = False
    default_system: bool = False
    opens_thinking: bool = False

    def template(self) -> str:
        """The template's text."""
        tools = "'[tools: ' + tools | map(attribute='function') | map(attribute='name') | join(' ') + ']\n'"
        flags = "".join(f"{{%- set {name} = {'true' if on else 'false'} -%}}" for name, on in asdict(self).items())
        return flags + _TEXT.replace("TOOLS", tools)

    def after_turn(self, followers: Sequence[Message], tools: Sequence[str]) -> str:
        """What follows an assistant turn, its end included, written down without any template."""
        users = [number for number, message in enumerate(followers) if message.role == "user"]
        text = f"{END}\n"
        for number, message in enumerate(followers):
            body = (message.text or "").strip() if self.trim else message.text or ""
            near = [followers[i].role if 0 <= i < len(followers) else "" for i in (number - 1, number + 1)]
            if message.role == "tool":
                text += "" if self.merge and near[0] == "tool" else f"{HEADER}user\n"
                text += f"<tool_response>\n{body}\n</tool_response>"
                text += "\n" if self.merge and near[1] == "tool" else f"{END}\n"
            else:
                if self.late_tools and users[-1] == number:
                    text += f"[tools: {' '.join(tools)}]\n"
                text += f"{HEADER}{message.role}\n{body}{END}\n"
        return text + f"{HEADER}assistant\n" + ("<think>\n" if self.opens_thinking else "")


HABITS = {
    "plain": Habit(),
    "strips earlier thinking": Habit(strip_thinking=True),
    "trims": Habit(trim=True),
    "moves tools": Habit(late_tools=True),
    "merges tool results": Habit(merge=True),
    "puts a system prompt": Habit(default_system=True),
    "opens thinking": Habit(opens_thinking=True),
    "strips and opens": Habit(strip_thinking=True, opens_thinking=True),
    "all of it": Habit(True, True, True, True, True, True),
}


NEMOTRON_V2 = """
{%- set ns = namespace(enable_thinking=true, last='') -%}
{%- for message in messages if message['role'] in ('user', 'system') -%}
{%- if '/no_think' in message['content'] -%}{%- set ns.enable_thinking = false -%}
{%- elif '/think' in message['content'] -%}{%- set ns.enable_thinking = true -%}{%- endif -%}
{%- endfor -%}
{{- '<SPECIAL_10>System\\n' -}}
{%- if messages[0]['role'] == 'system' -%}
{{- messages[0]['content'].replace('/no_think', '').replace('/think', '').strip() -}}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
{{- '\\n<AVAILABLE_TOOLS>[' -}}
{%- for tool in tools -%}{{- tool.function | tojson -}}{{- ', ' if not loop.last -}}{%- endfor -%}
{{- ']</AVAILABLE_TOOLS>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- if messages[-1]['role'] == 'assistant' -%}
    {%- set ns.last = messages[-1]['content'].strip() -%}
    {%- set messages = messages[:-1] -%}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '<SPECIAL_11>User\\n' + message['content'].replace('/no_think', '').replace('/think', '').strip() + '\\n' -}}
{%- elif message['role'] == 'tool' -%}
{{- '<SPECIAL_11>User\\n<TOOL_RESPONSE>[' if loop.first or messages[loop.index0 - 1]['role'] != 'tool' else ', ' -}}
{{- message['content'] -}}
{{- ']</TOOL_RESPONSE>\\n' if loop.last or messages[loop.index0 + 1]['role'] != 'tool' -}}
{%- elif message['role'] == 'assistant' -%}
{%- set content = message['content'] -%}
{%- if '</think>' in content -%}{%- set content = content.split('</think>')[1].strip() -%}{%- endif -%}
{{- '<SPECIAL_11>Assistant\\n' + content.strip() -}}
{%- if message.tool_calls -%}
{{- '\\n\\n' if content.strip() -}}{{- '<TOOLCALL>[' -}}
{%- for call in message.tool_calls -%}
{{- '{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
{{- '}' -}}{{- ', ' if not loop.last -}}
{%- endfor -%}
{{- ']</TOOLCALL>' -}}
{%- endif -%}
{{- '\\n<SPECIAL_12>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<SPECIAL_11>Assistant\\n' + ('<think>\\n' if ns.enable_thinking else '<think></think>') -}}
{%- endif -%}
{{- ns.last -}}
"""
"""A template that works as Nemotron Nano v2's do: thinking by words in messages, a last assistant message taken away to be continued."""
