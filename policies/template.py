"""A chat template as it really behaves: what it wants its messages like and how it ends a turn, found by rendering probes.

Nothing is assumed from a template's text. One that drops or rewrites the last assistant message is refused before anything is
sampled; one that strips earlier thinking is not, since a trajectory keeps its own tokens.
"""

import itertools
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError, RollhouseError
from ..base.time_limit import TimeLimitExceeded, time_limit
from ..store.ids import hash_id
from ..store.messages import Message, ToolCall
from .families import THINKING_WORDS, with_word

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = Sequence[Mapping[str, Any]]

MARK = f"mark{uuid.uuid4().hex}"
"""A word no conversation holds: stands for a turn's text, to find where the turn ends."""
PROBE_NAME = "probe_tool"
_TOOL = {"name": PROBE_NAME, "description": "A probe.", "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "A word."}}, "required": ["x"]}}  # fmt: skip
PROBE_TOOLS = ({"type": "function", "function": _TOOL},)
_RENDER_S = 20.0
"""Seconds of one rendering: a template is code of the model, and may loop for ever."""
_HELLO = Message("user", "hello")
_NEXT = f"next{uuid.uuid4().hex}"
_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_WRITTEN = f'{{"x":  "{MARK}"}}'
# A turn of one call and a turn of two, and the results of both.
_CALLS = tuple(Message("assistant", None, tuple(ToolCall(f"call_{i}", PROBE_NAME, _WRITTEN) for i in range(n))) for n in (1, 2))  # fmt: skip
_RESULTS = tuple(Message("tool", f"{MARK} {i}", tool_call_id=f"call_{i}") for i in range(2))
_RESULT = replace(_RESULTS[0], text=_NEXT)
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
        one_call: A turn of several calls cannot be rendered, as by Llama 3's; what follows one still can.
    """

    arguments_as_text: bool = True
    takes_reasoning: bool = True
    empty_content: bool = False
    short_ids: bool = False
    one_call: bool = False


class Template:
    """The chat template of a tokenizer with its settings.

    Attributes:
        word: Put at the end of the system message: the thinking that the settings ask for, where the template reads it there. None is no word.
        ends: Texts of the tokens that end a turn, the one of a plain answer first; those that end a turn only where it is not the last one are among them.
        stop_ids: The tokens of those that end a conversation's last turn.
        ends_are_headers: Turns have no end of their own: the header of what follows ends them, as in GLM's templates.
        renders_tools: Whether it lists a task's tools; one that does not serves tasks without any.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: Mapping[str, Any], named: Sequence[int]) -> None:
        """`named` are the stop tokens that tokenizer and model name. Raises ConfigError when tokens rendered by it could not be trusted."""
        self.tokenizer = tokenizer
        self.settings = dict(settings)
        self.habits = Habits()
        self.word: str | None = None
        self.renders_tools = False
        for name in settings:
            if not self._reads(name):
                self._use_word(name)
        self.habits = replace(self.habits, takes_reasoning=self._shows(Message("assistant", "a", reasoning=MARK)))
        try:
            self._check()
            self._find_ends(set(named))
            if self.renders_tools:
                self.after_turn([_HELLO, _CALLS[0], _RESULT], 1, PROBE_TOOLS)
        except TemplateError as error:
            raise ConfigError(error.message, error.fix) from error

    def text(self, messages: Sequence[Message], tools: Tools, generation_prompt: bool, lenient: bool = False) -> str:
        """Messages and tools as the template's text. `lenient` leaves out of calls what a template cannot be given. Raises TemplateError."""
        text = self.apply(messages, tools, lenient, add_generation_prompt=generation_prompt, tokenize=False)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # the template's own: those of messages were replaced when they were read
            raise _cannot_render(error) from error
        return text

    def apply(self, messages: Sequence[Message], tools: Tools, lenient: bool = False, **how: Any) -> Any:
        """The value of the tokenizer's `apply_chat_template`, with the arguments `how`. Raises TemplateError."""
        plain = with_word([self._plain(message, lenient) for message in messages], self.word)
        listed = [dict(tool) for tool in tools] or None
        try:
            with time_limit(_RENDER_S):
                return self.tokenizer.apply_chat_template(plain, tools=listed, **how, **self.settings)  # type: ignore[arg-type]
        except Exception as error:  # Jinja errors, and whatever a template's own code raises
            raise _cannot_render(error) from error

    def text_with_marks(
        self, messages: Sequence[Message], tools: Tools, other: str | None = None, lenient: bool = False
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """A whole conversation as text, and the spans of it inside the template's generation marks; None for a template without marks.

        Args:
            other: A template used in place of the tokenizer's own.
        Raises:
            TemplateError: The template cannot render the conversation.
        """
        source = self.tokenizer.get_chat_template(other)
        if _MARKS.search(source) is None:
            return self.apply(messages, tools, lenient, chat_template=source, tokenize=False), None
        from transformers.utils.chat_template_utils import render_jinja_template

        plain = [self._plain(message, lenient) for message in messages]
        plain = [{name: value for name, value in message.items() if value is not None} for message in plain]
        named = {**self.tokenizer.special_tokens_map, **self.settings}
        try:
            with time_limit(_RENDER_S):
                texts, spans = render_jinja_template([plain], [dict(tool) for tool in tools] or None, None, source, True, **named)  # fmt: skip
        except Exception as error:
            raise _cannot_render(error) from error
        return texts[0], [(int(start), int(end)) for start, end in spans[0]]

    def end_of(self, calls: bool) -> str:
        """The text that ends a turn of calls, or a plain answer, where more follows."""
        return self._ends_within[calls]

    def after_turn(self, messages: Sequence[Message], turn: int, tools: Tools) -> str:
        """What the template renders from the end of an assistant turn on: its end token, all that follows, the generation prompt.

        The turn's text is replaced by a mark and its end is the first end token after the mark. So nothing that was sampled can be taken for an
        end of turn, and no position is counted in a history that the template may render differently each time.

        Raises TemplateError when the template loses the turn.
        """
        history = [*messages[:turn], marked(messages[turn], self.renders_tools), *messages[turn + 1 :]]
        rendered = self.text(history, tools, generation_prompt=True, lenient=True)
        _, mark, rest = rendered.rpartition(MARK)
        starts = [at for at in map(rest.find, self.ends) if at >= 0]
        if not mark or not starts:
            raise TemplateError(
                "The chat template loses an assistant turn, or its end, once more follows.", _OTHER_TEMPLATE
            )
        return rest[min(starts) :]

    def probe_call(self) -> str | None:
        """A turn of one call of PROBE_NAME as a model samples it, without its end and without thinking; None for a template without tools."""
        if not self.renders_tools:
            return None
        given = self.text([_HELLO], PROBE_TOOLS, generation_prompt=True)
        whole = self.text([_HELLO, _CALLS[0]], PROBE_TOOLS, generation_prompt=False)
        header = whole[: next((i for i, (a, b) in enumerate(zip(given, whole, strict=False)) if a != b), len(given))]
        start = len(header) if header == given or header.rfind("<") < header.rfind(">") else header.rfind("<")
        ends = [at for at in (whole.find(end, whole.rfind(MARK)) for end in self.ends) if at >= 0]
        turn = whole[start : min(ends, default=len(whole))]
        return turn.rpartition("</think>")[2].lstrip("\n")

    def call_shape(self, opening: str) -> tuple[str, str, str] | None:
        """The texts of a call that begins with `opening`: before its name, between name and arguments, and behind the arguments, which are a JSON object.

        None for a template that writes calls otherwise.
        """
        turn = self.probe_call() or ""
        name, mark = turn.rfind(PROBE_NAME), turn.rfind(MARK)
        first = turn.rfind(opening, 0, max(name, 0))
        start, end = turn.find("{", name, mark) if name >= 0 else -1, turn.find("}", mark)
        if min(first, name, mark, start, end) < 0 or turn[start : start + 4] != '{"x"':
            return None
        return turn[first:name], turn[name + len(PROBE_NAME) : start], turn[end + 1 :]

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
        if lenient and self.habits.one_call and len(message.tool_calls) > 1:
            plain["tool_calls"] = plain["tool_calls"][-1:]
        for call in plain.get("tool_calls", ()):
            if self.habits.short_ids:
                call["id"] = _short(call["id"])
            if not self.habits.arguments_as_text:
                _give_object(call["function"], lenient)
        return plain

    # -- settings ------------------------------------------------------------------------------------------------------

    def _reads(self, name: str) -> bool:
        """Whether a setting makes a difference to what the template renders, or to whether it can."""
        thought = replace(_CALLS[0], text=MARK, reasoning="a")
        histories = (
            [_HELLO],
            [Message("system", "b"), _HELLO, thought, _RESULT, Message("assistant", "c", reasoning="d")],
        )
        settings = {other: value for other, value in self.settings.items() if other != name}
        for history, tools, prompt in itertools.product(histories, ((), PROBE_TOOLS), (True, False)):
            seen = set()
            for value in (self.settings[name], True, False, MARK, None):
                with self._as({**settings, **({} if value is None else {name: value})}):
                    try:
                        seen.add(self.text(history, tools, prompt))
                    except TemplateError as error:
                        seen.add(error.message)
            if len(seen) > 1:
                return True
        return False

    @contextmanager
    def _as(self, settings: Mapping[str, Any]) -> Iterator[None]:
        before, self.settings = self.settings, dict(settings)
        try:
            yield
        finally:
            self.settings = before

    def _use_word(self, name: str) -> None:
        """Takes a word in the system message for the setting that the template does not read. Raises ConfigError where there is none."""
        word = THINKING_WORDS.get(self.settings.pop(name)) if name == "enable_thinking" else None
        self.word = None if word is None else ""
        rendered = {}
        for choice in ("", *THINKING_WORDS.values()) if word is not None else ():
            self.word = choice
            rendered[choice] = self.text([Message("system", "b"), _HELLO], (), True)
        taken = rendered and all(choice not in text for choice, text in rendered.items() if choice)
        self.word = word
        if not taken or len(set(rendered.values())) < 2:
            self.word = None
            raise ConfigError(f"The chat template has no setting {name!r}.", "Leave it out, or name another template with --chat-template FILE.")  # fmt: skip

    # -- the start-up check --------------------------------------------------------------------------------------------

    def _shows(self, last: Message, wanted: str = MARK) -> bool:
        try:
            return wanted in self.text([_HELLO, last], (), generation_prompt=False)
        except TemplateError:
            return False

    def _check(self) -> None:
        """Renders histories that end in an assistant message. Raises ConfigError when it is dropped or rewritten."""
        self.renders_tools = "probe_tool" in self.text([_HELLO], PROBE_TOOLS, generation_prompt=True)
        lost = self._lost()
        if lost is None:
            return
        fix, settings = _OTHER_TEMPLATE, self.settings
        if settings.get("enable_thinking") is not False:
            with self._as({**settings, "enable_thinking": False}):
                fix = "Use --no-enable-thinking, with which it is kept." if self._lost() is None else fix
        raise ConfigError(f"The model's chat template {lost}.", fix)

    def _lost(self) -> str | None:
        """What the template does to a last assistant message, None when it is whole."""
        answer = f"{MARK}  one.\nTwo {MARK}"
        if not self._shows(Message("assistant", answer), answer):
            what = "rewrites" if self._shows(Message("assistant", answer)) else "drops"
            return f"{what} a conversation's last assistant message"
        return self._lost_calls() if self.renders_tools else None

    def _lost_calls(self) -> str | None:
        """As _lost for a turn of tool calls and their results; sets the habits with which the template keeps them."""
        before = self.habits
        lost = "drops or rewrites the tool calls of a conversation's last message"
        listed = self.text([_HELLO], PROBE_TOOLS, generation_prompt=True).count("probe_tool")
        choices = itertools.product((2, 1), (False, True), (False, True), (True, False))
        two_fail = True
        for number, empty, short, as_text in choices:
            if number == 1 and not two_fail:
                break  # it renders turns of several calls, and wrongly
            self.habits = replace(before, one_call=number == 1, empty_content=empty, short_ids=short, arguments_as_text=as_text)  # fmt: skip
            try:
                text = self.text([_HELLO, _CALLS[number - 1]], PROBE_TOOLS, False)
                after = self.text([_HELLO, _CALLS[number - 1], *_RESULTS[:number]], PROBE_TOOLS, True)
            except TemplateError:
                continue
            two_fail = two_fail and number == 1
            shown = text.count(_WRITTEN if as_text else MARK) >= number
            # Not as text within text, nor in the braces that a template writes around an object's items.
            shown = shown and f'\\"{MARK}' not in text and f"{{{_WRITTEN}" not in text
            if shown and text.count("probe_tool") >= listed + number:
                if all(str(result.text) in after for result in _RESULTS[:number]):
                    return None
                lost = "drops tool results"
        self.habits = before
        return lost

    # -- ends of turn --------------------------------------------------------------------------------------------------

    def _find_ends(self, named: set[int]) -> None:
        """Sets ends, stop_ids and ends_are_headers. Raises ConfigError when there are none."""
        answer, on = Message("assistant", MARK), Message("user", _NEXT)
        special = named | {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        last = self._first_of(special, [_HELLO, answer])
        within = self._first_of(special, [_HELLO, answer, on])
        if last is None and within is None:
            raise ConfigError("The model's chat template does not end an assistant turn with a special token.", "Name a template whose turns end in one with --chat-template FILE.")  # fmt: skip
        stops, others = [last], [within]
        if self.renders_tools:
            # The tags of a call may be special tokens too, so an end that is known comes first.
            known = {number for number in (last, within) if number is not None} | named
            for ends, more in ((stops, []), (others, [_RESULT])):
                history = [_HELLO, _CALLS[0], *more]
                ends.append(self._first_of(known, history) or self._first_of(special, history))
        found = [number for number in (*stops, *others) if number is not None]
        self.ends_are_headers = last is None
        wanted = found if self.ends_are_headers else stops
        self.stop_ids = tuple(dict.fromkeys(number for number in wanted if number is not None))
        texts = [
            None if number is None else str(self.tokenizer.convert_ids_to_tokens(number))
            for number in (within, others[-1])
        ]
        self._ends_within = (texts[0] or texts[1] or "", texts[1] or texts[0] or "")
        self.ends = tuple(dict.fromkeys(str(self.tokenizer.convert_ids_to_tokens(number)) for number in found))

    def _first_of(self, wanted: set[int], history: list[Message]) -> int | None:
        """The first of these tokens behind the mark and before what follows; None when there is none."""
        tools = PROBE_TOOLS if any(message.tool_calls for message in history) else ()
        rest = self.text(history, tools, generation_prompt=False).rpartition(MARK)[2].partition(_NEXT)[0]
        ids = self.tokenizer(rest, add_special_tokens=False)["input_ids"]
        return next((number for number in ids if number in wanted), None)  # type: ignore[union-attr]


def _cannot_render(error: Exception) -> TemplateError:
    if isinstance(error, TimeLimitExceeded):
        return TemplateError(f"The chat template took longer than {_RENDER_S:g} s to render the conversation.", "Name another template with --chat-template FILE.")  # fmt: skip
    return TemplateError(
        f"The chat template cannot render the conversation: {error}.",
        "Name another template with --chat-template FILE.",
    )


def marked(turn: Message, with_calls: bool) -> Message:
    """The turn with the mark for its text and for the arguments of its calls; names stay, later messages may show them."""
    if not with_calls:
        return Message("assistant", MARK)
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
