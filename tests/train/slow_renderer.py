"""What is meant to be trained, found without the code under test: every turn alone, by two renderings and the words in it."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from rollhouse.policies.chat import ChatFormat
from rollhouse.store.messages import Message, ToolCall

TOOL = {"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "What."}}, "required": ["q"]}}}  # fmt: skip


@dataclass
class Words:
    """Random conversations, in which every word occurs once."""

    rng: random.Random
    thinks: bool
    used: int = 0
    calls: int = 0
    messages: list[Message] = field(default_factory=list)

    def some(self) -> str:
        """One to three new words."""
        self.used += 3
        return " ".join(f"w{self.used + n}x" for n in range(self.rng.randint(1, 3)))

    def turn(self, tools: bool, one_call: bool) -> list[Message]:
        """An assistant turn, with the results of its calls."""
        reasoning = self.some() if self.thinks and self.rng.random() < 0.6 else None
        if not tools or self.rng.random() < 0.4:
            return [Message("assistant", self.some(), reasoning=reasoning)]
        calls = []
        for _ in range(1 if one_call else self.rng.randint(1, 2)):
            self.calls += 1
            calls.append(ToolCall(f"call_{self.calls}", "find", json.dumps({"q": self.some()})))
        text = self.some() if self.rng.random() < 0.3 else None
        results = [Message("tool", self.some(), tool_call_id=call.id) for call in calls]
        return [Message("assistant", text, tuple(calls), reasoning=reasoning), *results]

    def talk(self, n: int, tools: bool, one_call: bool) -> list[Message]:
        """`n` turns, the last one without calls; a user message after each answer."""
        said: list[Message] = []
        for at in range(n):
            said += self.turn(tools and at < n - 1, one_call)
            if said[-1].role == "assistant" and at < n - 1:
                said.append(Message("user", self.some()))
        return said


def conversation(seed: int, chat: ChatFormat) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A prompt, which may hold earlier turns, and a completion of one to four turns, some with reasoning for odd seeds."""
    words, tools = Words(random.Random(seed), seed % 2 == 1), chat.template.renders_tools
    one_call = chat.template.habits.one_call
    prompt = [Message("system", words.some())] if words.rng.random() < 0.3 else []
    prompt.append(Message("user", words.some()))
    for _ in range(words.rng.randint(0, 2)):
        prompt += [*words.talk(1 + words.rng.randint(0, 1), tools, one_call), Message("user", words.some())]
    return tuple(prompt), tuple(words.talk(words.rng.randint(1, 4), tools, one_call))


def meant(
    chat: ChatFormat, prompt: tuple[Message, ...], completion: tuple[Message, ...], header: str = ""
) -> list[tuple[str, str]] | None:
    """(context, sampled text) of each turn of the completion; None when a turn cannot be shown whole.

    Args:
        header: The header of a turn that the generation prompt lacks and the policy does not write.
    """
    found = []
    for at, turn in enumerate(completion):
        if turn.role != "assistant":
            continue
        history = [*prompt, *completion[:at]]
        try:
            one = _meant(chat, history, turn, header, None)
            one = one or _meant(chat, history, turn, header, _for_training(chat))
        except Exception:
            return None
        if one is None:
            return None
        found.append(one)
    return found


def _for_training(chat: ChatFormat) -> str | None:
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(chat.tokenizer)
    except ValueError:
        return None


def _meant(
    chat: ChatFormat, history: list[Message], turn: Message, header: str, template: str | None
) -> tuple[str, str] | None:
    tools = [TOOL] if chat.template.renders_tools else None

    def text(messages: list[Message], prompt: bool, source: str | None) -> str:
        plain = [_plain(chat, message) for message in messages]
        settings: Any = chat.template.settings
        return str(chat.tokenizer.apply_chat_template(plain, tools=tools, tokenize=False, add_generation_prompt=prompt, chat_template=source, **settings))  # type: ignore[arg-type]  # fmt: skip

    context, whole = text(history, True, None), text([*history, turn], False, template)
    seen, before = (text(history, prompt, template) for prompt in (True, False))
    start = 0
    while start < min(len(seen), len(whole)) and seen[start] == whole[start]:
        start += 1
    if start < len(seen) and start < len(before):
        return None  # the history is another one once the turn is there
    if start < len(seen):
        context = context[: start - len(seen)]
    said = whole[start:]
    last = 0
    for word in _words(turn):
        if word not in said:
            return None
        last = max(last, said.index(word) + len(word))
    if turn.reasoning and turn.tool_calls and said.index(turn.reasoning) > said.index(turn.tool_calls[0].parsed()["q"]):
        return None  # no template shows reasoning after the call
    stops = [str(chat.tokenizer.convert_ids_to_tokens(number)) for number in chat.stop_token_ids]
    ends = [(said.index(stop, last), stop) for stop in stops if stop in said[last:]]
    if ends:
        said = said[: min(ends)[0]] + min(ends)[1]
    elif not chat.template.ends_are_headers:
        return None
    else:
        said += "<|observation|>" if turn.tool_calls else "<|user|>"  # the header of what follows
    if header and said.startswith(header) and not context.endswith(header):
        context, said = context + header, said[len(header) :]
    return context, said


def _words(turn: Message) -> list[str]:
    texts = [turn.text or "", turn.reasoning or "", *(call.parsed()["q"] for call in turn.tool_calls)]
    return [word for text in texts for word in text.split()]


def _plain(chat: ChatFormat, message: Message) -> dict[str, Any]:
    habits, text = chat.template.habits, message.text
    if message.reasoning and not habits.takes_reasoning:
        text = f"<think>\n{message.reasoning}\n</think>\n\n{text or ''}"
    plain: dict[str, Any] = {"role": message.role, "content": "" if habits.empty_content and text is None else text}
    if message.reasoning and habits.takes_reasoning:
        plain["reasoning_content"] = message.reasoning
    if message.tool_calls:
        plain["tool_calls"] = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments if habits.arguments_as_text else call.parsed()}} for call in message.tool_calls]  # fmt: skip
    if message.tool_call_id:
        plain["tool_call_id"] = message.tool_call_id
    return plain
