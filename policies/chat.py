"""Between messages and tokens: renders a prompt, renders what follows a sampled turn, and parses a sampled turn.

A trajectory's tokens are never made from its text again. The sampled tokens stay as they are; only what comes after them (tool
results, a user turn, the next generation prompt) is rendered and appended.
"""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..store.messages import Message, ToolCall
from .config import ChatOptions
from .models import load_tokenizer, stop_token_ids, template_hash, tokenizer_hash
from .parsers import OPENINGS, load_parser, opens_thinking, split_thinking
from .template import Template, TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..store.task import Task

__all__ = ["ChatFormat", "TemplateError"]

_CACHED_PROMPTS = 256
_KEPT_FORMS = 4096
_THINKING_TAIL = 16  # tokens that hold `<think>` and white space, even one token a byte


_Form = tuple[Any, ...]


class ChatFormat:
    """The chat template, tokenizer and tool parser of one model.

    Attributes:
        stop_token_ids: Tokens that end a turn; the first is the template's own end-of-turn token.
        call_openings: Texts that begin a call; None for a parser of which they are not known.
        tokenizer_hash, template_hash: As stored in `rollouts` and `prompt_tokens`; the template's with its settings.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", stop_ids: Sequence[int] = (), options: ChatOptions | None = None
    ) -> None:
        """`stop_ids` are those of the model's configuration. Raises ConfigError for a template that drops or changes a trailing assistant message."""
        options = options or ChatOptions()
        self._stop_ids, self._options = tuple(stop_ids), options
        named = [number for number in (*stop_ids, tokenizer.eos_token_id) if isinstance(number, int)]
        self.tokenizer = tokenizer
        self.template = Template(tokenizer, options.template_settings(), named)
        self.stop_token_ids = tuple(dict.fromkeys((*self.template.stop_ids, *named)))
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self.template_hash = template_hash(tokenizer, options.template_settings())
        self._read_calls = load_parser(options, tokenizer, self.template)
        self.call_openings = OPENINGS.get(self._read_calls)
        self._uses: dict[_Form, int | None] = {}
        self._prompts: OrderedDict[int, tuple[Task, list[int]]] = OrderedDict()

    @classmethod
    def of(cls, folder: str | os.PathLike[str], options: ChatOptions | None = None) -> "ChatFormat":
        """The chat format of a model folder. Raises ConfigError."""
        options = options or ChatOptions()
        tokenizer = load_tokenizer(folder, options.template)
        return cls(tokenizer, stop_token_ids(folder, tokenizer), options)

    def with_settings(self, more: Mapping[str, Any]) -> "ChatFormat":
        """This chat format with further settings of its template, which replace settings of the same name. Raises ConfigError."""
        settings = {**self._options.template_settings(), **more}
        options = self._options.model_copy(update={"template_kwargs": settings, "enable_thinking": None})
        return ChatFormat(self.tokenizer, self._stop_ids, options)

    def prompt_ids(self, task: "Task") -> list[int]:
        """The task's prompt with the generation prompt. Cached, since a group needs it many times."""
        kept = self._prompts.get(id(task))
        if kept is None:
            kept = self._prompts[id(task)] = (task, self.render(task.messages, task.tools, generation_prompt=True))
            if len(self._prompts) > _CACHED_PROMPTS:
                self._prompts.popitem(last=False)
        return list(kept[1])

    def suffix_ids(self, task: "Task", messages: Sequence[Message], last_sampled: int | None) -> list[int]:
        """What to append after a sampled turn: the end of that turn if it was not sampled, what follows it, the generation prompt.

        Args:
            messages: Everything after the prompt; the sampled turn is its last assistant message.
            last_sampled: The last token of the trajectory so far.
        Raises:
            TemplateError: The template loses the turn or its end.
        """
        last = max(number for number, message in enumerate(messages) if message.role == "assistant")
        return self._after([*task.messages, *messages], len(task.messages) + last, task.tools, last_sampled)

    def splice(
        self,
        prefix_ids: Sequence[int],
        messages_before: Sequence[Message],
        messages_all: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
    ) -> list[int]:
        """The prompt of a client that sends messages only, true to the tokens sampled before: `prefix_ids` and what follows them.

        Equals NeMo Gym's prefix-token correction (docs/serve.md), without its reliance on counting end tokens.

        Args:
            prefix_ids: Prompt and sampled tokens of the latest assistant message whose tokens are known; empty when there is none.
            messages_before: The history up to and with that message.
            messages_all: The whole history, which begins with messages_before.
        Raises:
            TemplateError: The template loses the turn or its end, or messages_before does not end in an assistant message.
        """
        if not prefix_ids:
            return self.render(messages_all, tools, generation_prompt=True)
        if not messages_before or messages_before[-1].role != "assistant":
            raise TemplateError("The history before a splice does not end in an assistant message.", "Send the turn whose tokens are known, then what follows it.")  # fmt: skip
        return [*prefix_ids, *self._after(messages_all, len(messages_before) - 1, tools, prefix_ids[-1])]

    def _after(
        self, messages: Sequence[Message], turn: int, tools: Sequence[Mapping[str, Any]], last_sampled: int | None
    ) -> list[int]:
        # The text begins with an end token, where every tokenizer starts again: these are the tokens that the whole would have there.
        rest: Any = self.tokenizer(self._text_after(messages, turn, tools), add_special_tokens=False)
        ids = list(rest["input_ids"])
        ended = last_sampled in self.stop_token_ids and not self.template.ends_are_headers
        return ids[1:] if ended or last_sampled == ids[0] else ids

    def _text_after(self, messages: Sequence[Message], turn: int, tools: Sequence[Mapping[str, Any]]) -> str:
        """`Template.after_turn`, without the turns between prompt and this one, and with the first tool alone, where neither makes a difference.

        A conversation of many calls would take quadratic time otherwise. Whether they make one is tried for each form of what follows, the first
        time and whenever the number of its uses has doubled; a form for which they do is rendered whole from then on.
        """
        form = _form_of(messages, turn, tools)
        uses = None if form is None else self._uses.get(form, 0)
        if form is None or uses is None:
            return self.template.after_turn(messages, turn, tools)
        first = next(number for number, message in enumerate(messages) if message.role == "assistant")
        short: str | None = None
        with suppress(TemplateError):
            short = self.template.after_turn([*messages[:first], *messages[turn:]], first, tools[:1])
        if short is not None and uses & (uses - 1):
            self._uses[form] = uses + 1
            return short
        whole = self.template.after_turn(messages, turn, tools)
        if len(self._uses) >= _KEPT_FORMS:
            self._uses.clear()
        self._uses[form] = uses + 1 if short == whole else None
        return whole

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generation_prompt: bool
    ) -> list[int]:
        """Messages and tools through the template, as token ids. Raises TemplateError."""
        if tools and not self.template.renders_tools:
            raise TemplateError("The model's chat template does not render tools.", "Name one that does with --chat-template FILE.")  # fmt: skip
        how = {"add_generation_prompt": generation_prompt, "tokenize": True, "return_dict": False}
        return list(self.template.apply(messages, tools, **how))

    def render_with_mask(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], template: str | None = None
    ) -> tuple[list[int], list[int]]:
        """A whole conversation as token ids and a parallel mask: 1 inside the template's generation marks, the assistant's turns.

        Args:
            template: Used in place of the tokenizer's own, for one that has no generation marks; the mask is all zero without them.
        Raises:
            TemplateError: The template cannot render the conversation.
        """
        how = {"chat_template": template, "return_dict": True, "return_assistant_tokens_mask": True}
        rendered = self.template.apply(messages, tools, tokenize=True, **how)
        return list(rendered["input_ids"]), list(rendered["assistant_masks"])

    def parse(
        self,
        token_ids: Sequence[int],
        first_call: int = 0,
        tools: Sequence[Mapping[str, Any]] = (),
        before: Sequence[int] = (),
    ) -> tuple[Message, int]:
        """A sampled turn as a message, and the number of its tool calls that could not be parsed.

        `<think>…</think>` at its start becomes the message's reasoning; thinking that never ends is reasoning as a whole.

        Args:
            first_call: Number of the first call's id, `call_<n>`.
            tools: The task's tools, for parsers that need them.
            before: The tokens before the turn (the last ones are enough), to see whether the prompt opened the thinking.
        """
        sampled = list(token_ids)
        if sampled and sampled[-1] in self.stop_token_ids:
            sampled.pop()
        opened = opens_thinking(self._decode(before[-_THINKING_TAIL:]))
        reasoning, rest = split_thinking(self._decode(sampled), opened)
        text, calls, failures = self._read_calls(rest, tools)
        numbered = tuple(ToolCall(f"call_{first_call + i}", name, written) for i, (name, written) in enumerate(calls))
        return Message("assistant", text, numbered, reasoning=reasoning), failures

    @cached_property
    def call_shape(self) -> tuple[str, str, str] | None:
        """The texts before a call's name, between name and arguments, and behind the arguments; None for calls that are not JSON between known texts."""
        return self.template.call_shape(self.call_openings[0]) if self.call_openings else None

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return self._decode(token_ids)

    def _decode(self, token_ids: Sequence[int]) -> str:
        if not token_ids:
            return ""
        return str(
            self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )


def _form_of(messages: Sequence[Message], turn: int, tools: Sequence[Mapping[str, Any]]) -> _Form | None:
    """What a template may tell apart in a prompt, in the turns between it and this turn, and in what follows, beside the words.

    None where there is nothing to leave out, and where what follows refers to earlier turns or has turns of its own.
    """
    rest = messages[turn + 1 :]
    calls = {call.id for call in messages[turn].tool_calls}
    if any(one.role == "assistant" or (one.tool_call_id is not None and one.tool_call_id not in calls) for one in rest):
        return None
    roles = [message.role for message in messages[:turn]]
    first = roles.index("assistant") if "assistant" in roles else turn
    if first == turn and len(tools) < 2:
        return None
    between = roles[first:]
    before = (tuple(roles[:first]), frozenset(between), between.count("assistant").bit_length(), min(len(tools), 2))
    return (*before, len(calls), bool(messages[turn].text), tuple(one.role for one in rest))
