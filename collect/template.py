"""A chat template as it really behaves: what it wants its messages like and how it ends a turn, found by rendering probes.

Nothing is assumed from a template's text. One that drops or rewrites what the assistant said last is refused before anything is
sampled; one that strips earlier thinking is not, since a trajectory keeps its own tokens.
"""

import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..store.errors import ConfigError, RollhouseError
from ..store.ids import hash_id
from ..store.messages import Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = Sequence[Mapping[str, Any]]

MARK = f"mark{uuid.uuid4().hex}"
"""A word no conversation holds: stands for a turn's text, to find where the turn ends."""
_TOOL = {"name": "probe_tool", "description": "A probe.", "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "A word."}}, "required": ["x"]}}  # fmt: skip
_TOOLS = ({"type": "function", "function": _TOOL},)
_OTHER_TEMPLATE = "Name a template that renders every turn as it is with --chat-template FILE."


class TemplateError(RollhouseError):
    """A chat template cannot render a conversation, or loses part of it."""


@dataclass(frozen=True)
class Habits:
    """What a template wants its messages like.

    Attributes:
        arguments_as_text: It prints a call's arguments that are a string as they are; otherwise they are given as an object.
        takes_reasoning: It renders `reasoning_content`; otherwise thinking is put before the content, in its tags.
        empty_content: A turn of calls alone has the content "", not none.
        short_ids: Calls have ids of nine letters and digits, as Mistral's templates ask for.
    """

    arguments_as_text: bool = True
    takes_reasoning: bool = True
    empty_content: bool = False
    short_ids: bool = False


class Template:
    """The chat template of a tokenizer with its settings.

    Attributes:
        ends: Texts of the tokens that end a turn, the one of a plain answer first; those that end a turn only where it is not the last one are among them.
        stop_ids: The tokens of those that end a conversation's last turn.
        ends_are_headers: Turns have no end of their own: the header of what follows ends them, as in GLM's templates.
        renders_calls: Whether it says anything about tools.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: Mapping[str, Any], named: Sequence[int]) -> None:
        """`named` are the stop tokens that tokenizer and model name. Raises ConfigError when tokens rendered by it could not be trusted."""
        self.tokenizer = tokenizer
        self.settings = dict(settings)
        self.habits = Habits()
        source = str(tokenizer.chat_template)
        self.renders_calls = "tool" in source
        for name in self.settings:
            if name not in source:
                raise ConfigError(f"The chat template has no setting {name!r}.", "Leave it out, or name another template with --chat-template FILE.")  # fmt: skip
        self.habits = replace(self.habits, takes_reasoning=self._shows(Message("assistant", "a", reasoning=MARK)))
        self._check()
        self._find_ends(set(named))

    def text(self, messages: Sequence[Message], tools: Tools, generation_prompt: bool, lenient: bool = False) -> str:
        """Messages and tools as the template's text. `lenient` empties arguments that a template cannot be given. Raises TemplateError."""
        return self.apply(messages, tools, lenient, add_generation_prompt=generation_prompt, tokenize=False)

    def apply(self, messages: Sequence[Message], tools: Tools, lenient: bool = False, **how: Any) -> Any:
        """What the tokenizer's `apply_chat_template` gives, called `how`. Raises TemplateError."""
        plain = [self._plain(message, lenient) for message in messages]
        listed = [dict(tool) for tool in tools] or None
        try:
            return self.tokenizer.apply_chat_template(plain, tools=listed, **how, **self.settings)  # type: ignore[arg-type]
        except Exception as error:  # Jinja errors, and whatever a template's own code raises
            raise TemplateError(
                f"The chat template cannot render the conversation: {error}.",
                "Name another template with --chat-template FILE.",
            ) from error

    def after_turn(self, messages: Sequence[Message], turn: int, tools: Tools) -> str:
        """What the template renders from the end of an assistant turn on: its end token, all that follows, the generation prompt.

        The turn's text is replaced by a mark and its end is the first end token after the mark. So nothing that was sampled can be taken for an
        end of turn, and no position is counted in a history that the template may render differently each time.

        Raises TemplateError when the template loses the turn.
        """
        history = [*messages[:turn], _marked(messages[turn]), *messages[turn + 1 :]]
        rendered = self.text(history, tools, generation_prompt=True, lenient=True)
        _, mark, rest = rendered.rpartition(MARK)
        starts = [at for at in map(rest.find, self.ends) if at >= 0]
        if not mark or not starts:
            raise TemplateError(
                "The chat template loses an assistant turn, or its end, once more follows.", _OTHER_TEMPLATE
            )
        return rest[min(starts) :]

    def _plain(self, message: Message, lenient: bool = False) -> dict[str, Any]:
        """The message as this template wants it."""
        if message.reasoning is not None and not self.habits.takes_reasoning:
            thought = f"<think>\n{message.reasoning}\n</think>\n\n"
            message = replace(message, text=thought + (message.text or ""), reasoning=None)
        plain = message.to_openai()
        if self.habits.empty_content and plain["content"] is None:
            plain["content"] = ""
        if self.habits.short_ids and message.tool_call_id is not None:
            plain["tool_call_id"] = _short(message.tool_call_id)
        for call in plain.get("tool_calls", ()):
            if self.habits.short_ids:
                call["id"] = _short(call["id"])
            if not self.habits.arguments_as_text:
                _give_object(call["function"], lenient)
        return plain

    # -- the start-up check --------------------------------------------------------------------------------------------

    def _shows(self, last: Message, wanted: str = MARK, tools: Tools = ()) -> bool:
        try:
            return wanted in self.text([Message("user", "hello"), last], tools, generation_prompt=False)
        except TemplateError:
            return False

    def _check(self) -> None:
        """Renders histories that end in an assistant message. Raises ConfigError when it is dropped or rewritten."""
        self.text([Message("user", "hello")], (), generation_prompt=True)  # a template that fails says why
        lost = self._lost()
        if lost is None:
            return
        fix, settings = _OTHER_TEMPLATE, self.settings
        if settings.get("enable_thinking") is not False and "enable_thinking" in str(self.tokenizer.chat_template):
            self.settings = {**settings, "enable_thinking": False}
            fix = "Use --no-enable-thinking, with which it is kept." if self._lost() is None else fix
            self.settings = settings
        raise ConfigError(f"The model's chat template {lost}.", fix)

    def _lost(self) -> str | None:
        """What the template does to a last assistant message, None when it is whole."""
        answer = f"{MARK}  one.\nTwo {MARK}"
        if not self._shows(Message("assistant", answer), answer):
            what = "rewrites" if self._shows(Message("assistant", answer)) else "drops"
            return f"{what} a conversation's last assistant message"
        return self._lost_calls() if self.renders_calls else None

    def _lost_calls(self) -> str | None:
        """As _lost for a turn of two tool calls and their results; sets the habits with which the template keeps them."""
        written = f'{{"x":  "{MARK}"}}'
        calls = tuple(ToolCall(f"call_{number}", "probe_tool", written) for number in range(2))
        results = [Message("tool", f"{MARK} {number}", tool_call_id=f"call_{number}") for number in range(2)]
        before, kept = self.habits, False
        named = self.text([Message("user", "hello")], _TOOLS, True).count("probe_tool")  # where the tools are listed
        for empty, short, as_text in itertools.product((False, True), (False, True), (True, False)):
            self.habits = replace(before, empty_content=empty, short_ids=short, arguments_as_text=as_text)
            try:
                text = self.text([Message("user", "hello"), Message("assistant", None, calls)], _TOOLS, False)
                after = self.text([Message("user", "hello"), Message("assistant", None, calls), *results], _TOOLS, True)
            except TemplateError:
                continue
            arguments = written if as_text else MARK
            if text.count(arguments) >= 2 and text.count("probe_tool") >= named + 2 and f'\\"{MARK}' not in text:
                if all(f"{MARK} {number}" in after for number in range(2)):
                    return None
                kept = True
        self.habits = before
        return "drops tool results" if kept else "drops or rewrites the tool calls of a conversation's last message"

    # -- ends of turn --------------------------------------------------------------------------------------------------

    def _find_ends(self, named: set[int]) -> None:
        hello, answer = Message("user", "hello"), Message("assistant", MARK)
        special = named | {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        last = self._first_of(special, [hello, answer])
        within = self._first_of(special, [hello, answer, Message("user", "go on")])
        stops, others = [last], [within]
        if self.renders_calls:
            # The tags of a call may be special tokens too, so an end that is known comes first.
            turn = Message("assistant", None, (ToolCall("call_0", "probe_tool", f'{{"x": "{MARK}"}}'),))
            known = {number for number in (last, within) if number is not None} | named
            for ends, more in ((stops, []), (others, [Message("tool", "go on", tool_call_id="call_0")])):
                history = [hello, turn, *more]
                ends.append(self._first_of(known, history) or self._first_of(special, history))
        found = [number for number in (*stops, *others) if number is not None]
        self.ends_are_headers = last is None
        if not found or (last is None and within is None):
            raise ConfigError("The model's chat template ends an assistant turn with no special token.", "Name a template whose turns end in one with --chat-template FILE.")  # fmt: skip
        self.stop_ids = tuple(dict.fromkeys(number for number in stops if number is not None)) or (found[0],)
        self.ends = tuple(dict.fromkeys(str(self.tokenizer.convert_ids_to_tokens(number)) for number in found))

    def _first_of(self, wanted: set[int], history: list[Message]) -> int | None:
        """The first of these tokens behind the mark; None when there is none."""
        tools = _TOOLS if any(message.tool_calls for message in history) else ()
        rest = self.text(history, tools, generation_prompt=False).rpartition(MARK)[2]
        ids = self.tokenizer(rest, add_special_tokens=False)["input_ids"]
        return next((number for number in ids if number in wanted), None)  # type: ignore[union-attr]


def _marked(turn: Message) -> Message:
    """The turn with the mark for its text and for the arguments of its calls; names stay, later messages may show them."""
    calls = tuple(replace(call, arguments=json.dumps({"x": MARK})) for call in turn.tool_calls)
    text = turn.text if calls and not turn.text else MARK
    return Message("assistant", text, calls)


def _give_object(function: dict[str, Any], lenient: bool) -> None:
    try:
        function["arguments"] = json.loads(function["arguments"])
    except (ValueError, RecursionError):  # the policy's own broken text, which only a string can carry
        if lenient:
            function["arguments"] = {}


def _short(call_id: str) -> str:
    return hash_id(call_id)[:9]
