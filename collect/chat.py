"""Between messages and tokens: what a prompt renders to, what follows a sampled turn, and what a sampled turn says.

A trajectory's tokens are never made from its text again. The sampled tokens stay as they are; only what comes after them (tool
results, a user turn, the next generation prompt) is rendered and appended.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..store.errors import ConfigError, RollhouseError
from ..store.messages import Message
from .chat_options import ChatOptions
from .hermes import parse_turn
from .models import load_tokenizer, stop_token_ids, template_hash, tokenizer_hash
from .types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CACHED_PROMPTS = 256


class TemplateError(RollhouseError):
    """A chat template cannot render a conversation, or renders what came before differently once more follows."""


class ChatFormat:
    """The chat template and tokenizer of one model.

    Attributes:
        stop_token_ids: Tokens that end a turn; the first is the template's own end-of-turn token.
        tokenizer_hash, template_hash: As stored in `rollouts` and `prompt_tokens`.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", stop_ids: Sequence[int] = (), options: ChatOptions | None = None
    ) -> None:
        """Raises ConfigError when the template drops or changes a trailing assistant message."""
        self.tokenizer = tokenizer
        self.options = options or ChatOptions()
        self._settings = self.options.template_settings()
        self.stop_token_ids = tuple(stop_ids) or (_end_token(tokenizer),)
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self.template_hash = template_hash(tokenizer, self._settings)
        # A template without a case for strings would quote the arguments once more.
        self._arguments_as_text = "is string" in str(tokenizer.chat_template)
        self._prompts: OrderedDict[int, tuple[Task, list[int]]] = OrderedDict()
        self._check_template()

    @classmethod
    def of(cls, folder: str | os.PathLike[str], options: ChatOptions | None = None) -> "ChatFormat":
        """The chat format of a model folder. Raises ConfigError."""
        options = options or ChatOptions()
        tokenizer = load_tokenizer(folder, options.template)
        return cls(tokenizer, stop_token_ids(folder, tokenizer), options)

    def prompt_ids(self, task: Task) -> list[int]:
        """The task's prompt with the generation prompt. Remembered, since a group asks for it many times."""
        kept = self._prompts.get(id(task))
        if kept is None:
            kept = self._prompts[id(task)] = (task, self.render(task.messages, task.tools, generation_prompt=True))
            if len(self._prompts) > _CACHED_PROMPTS:
                self._prompts.popitem(last=False)
        return list(kept[1])

    def suffix_ids(self, task: Task, messages: Sequence[Message], last_sampled: int | None) -> list[int]:
        """What to append after a sampled turn: the end of that turn if it was not sampled, what follows it, the generation prompt.

        The whole history is rendered and cut after its N-th end-of-turn token, where N is how many it has up to and including the last
        assistant message. Counting ends, not positions, survives templates that rewrite earlier turns.

        Args:
            messages: Everything after the prompt; the sampled turn is its last assistant message.
            last_sampled: The last token of the trajectory so far.
        Raises:
            TemplateError: The template loses the end of the turn.
        """
        last = max(i for i, message in enumerate(messages) if message.role == "assistant")
        end = self.stop_token_ids[0]
        history = [*task.messages, *messages]
        before = self.render(history[: len(task.messages) + last + 1], task.tools, generation_prompt=False)
        whole = self.render(history, task.tools, generation_prompt=True)
        ends = [position for position, token in enumerate(whole) if token == end]
        count = before.count(end)
        if not 0 < count <= len(ends):
            raise TemplateError(
                f"The chat template renders {count} ends of turn up to the last assistant message and {len(ends)} in all.",
                "Use a chat template that keeps every turn of the history.",
            )
        cut = ends[count - 1]
        return whole[cut + 1 :] if last_sampled in self.stop_token_ids else whole[cut:]

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generation_prompt: bool
    ) -> list[int]:
        """Messages and tools through the template, as token ids. Raises TemplateError."""
        plain = [self._for_template(message) for message in messages]
        try:
            ids = self.tokenizer.apply_chat_template(
                plain,
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=generation_prompt,
                tokenize=True,
                return_dict=False,
                **self._settings,
            )
        except Exception as error:  # Jinja errors, and whatever a template's own code raises
            raise TemplateError(
                f"The chat template cannot render the conversation: {error}.", "Use another chat template."
            ) from error
        return list(ids)  # type: ignore[arg-type]

    def render_with_mask(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], template: str | None = None
    ) -> tuple[list[int], list[int]]:
        """A whole conversation as token ids and a parallel mask: 1 inside the template's generation marks, the assistant's turns.

        Args:
            template: Used in place of the tokenizer's own, for one that has no generation marks; the mask is all zero without them.
        Raises:
            TemplateError: The template cannot render the conversation.
        """
        try:
            rendered = self.tokenizer.apply_chat_template(
                [self._for_template(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                chat_template=template,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
                **self._settings,
            )
        except Exception as error:  # as in render
            raise TemplateError(
                f"The chat template cannot render the conversation: {error}.", "Use another chat template."
            ) from error
        return list(rendered["input_ids"]), list(rendered["assistant_masks"])  # type: ignore[index]

    def parse(self, token_ids: Sequence[int], first_call: int = 0) -> tuple[Message, int]:
        """A sampled turn as a message, and how many of its tool calls could not be read. See `hermes.parse_turn`."""
        text = list(token_ids)
        if text and text[-1] in self.stop_token_ids:
            text.pop()
        decoded = self.tokenizer.decode(text, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return parse_turn(str(decoded), first_call)

    def _for_template(self, message: Message) -> dict[str, Any]:
        plain = message.to_openai()
        for call in plain.get("tool_calls", ()) if not self._arguments_as_text else ():
            try:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            except ValueError:
                continue  # the policy's own broken text, which only a string can carry
        return plain

    def _check_template(self) -> None:
        probe = "qzx answered"
        history = [Message("user", "hello"), Message("assistant", probe)]
        text = str(self.tokenizer.decode(self.render(history, (), generation_prompt=False)))
        if probe not in text:
            raise ConfigError(
                "The model's chat template drops a conversation's last assistant message.",
                "Edit chat_template.jinja so that every turn of the history is rendered.",
            )


def _end_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    if tokenizer.eos_token_id is None:
        raise ConfigError("The tokenizer has no end-of-turn token.", "Set eos_token in its tokenizer_config.json.")
    return int(tokenizer.eos_token_id)  # type: ignore[arg-type]
