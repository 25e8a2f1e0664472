"""Reads thinking, text and tool calls out of a sampled turn: built-in forms, vLLM's parsers by name, or a user's plug-in.

A plug-in (`module:name` or `FILE.py:name`) is one function::

    def parse(text: str) -> tuple[str | None, list[tuple[str, str]], int]:
        '''The text outside the calls (None for none), each call's (name, JSON text of its arguments), and the number of calls
        that could not be read.'''

or a parser class of vLLM's kind (a subclass of `vllm.tool_parsers.ToolParser`).
"""

import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError, FormatError, MissingExtra, one_line
from ..base.packages import require
from ..base.plugins import FORMS, load_plugin, parse_plugin
from .config import ChatOptions
from .engines.environment import prepare_environment
from .families import parsers_of
from .hermes import COHERE, HERMES, NEMOTRON
from .json_calls import Parsed, is_object
from .marked_calls import parse_llama3, parse_mistral
from .template import MARK, PROBE_NAME, PROBE_TOOLS, Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("rollhouse")

Parser = Callable[[str, Sequence[Mapping[str, Any]]], Parsed]
"""Takes the text of a turn without thinking, and the task's tools."""

BUILT_IN: dict[str, Parser] = {
    "hermes": lambda text, tools: HERMES.parse(text),
    "nemotron_json": lambda text, tools: NEMOTRON.parse(text),
    "cohere": lambda text, tools: COHERE.parse(text),
    "llama3_json": parse_llama3,
    "mistral": parse_mistral,
}
"""Parsers by name that keep arguments byte for byte. `nemotron_json` reads `<TOOLCALL>[…]</TOOLCALL>` of Nemotron Nano v2, `cohere` the actions of Command."""

OPENINGS: dict[Parser, tuple[str, ...]] = {
    BUILT_IN["hermes"]: ("<tool_call>",),
    BUILT_IN["nemotron_json"]: ("<TOOLCALL>",),
    BUILT_IN["cohere"]: ("<|START_ACTION|>",),
    BUILT_IN["mistral"]: ("[TOOL_CALLS]",),
}
"""Texts that begin the calls of parsers, where nothing else does."""

OPEN, CLOSE = "<think>", "</think>"


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends in an opened `<think>`, so that what is sampled begins inside it."""
    return prompt.rstrip().endswith(OPEN)


def split_thinking(text: str, opened: bool = False) -> tuple[str | None, str]:
    """The thinking at a turn's start (None without any) and the rest.

    Line ends around the thinking belong to neither. `opened`: the prompt ended in the opening tag.
    """
    start = text.lstrip()
    if start.startswith(OPEN):
        start = start[len(OPEN) :]
    elif opened:
        start = text
    else:
        return None, text
    thinking, _, rest = start.partition(CLOSE)
    return thinking.strip("\n"), rest.lstrip("\n")


AUTO = "auto"


def load_parser(options: ChatOptions, tokenizer: "PreTrainedTokenizerBase", template: Template, model_type: str | None) -> Parser:  # fmt: skip
    """The parser of the options; `auto` is one that reads the calls that the template writes, see `_fitting`. Raises ConfigError for an unknown one, MissingExtra for one of vLLM's when vLLM is not installed."""
    if parse_plugin(options.tool_parser) is not None:
        return _plugin_parser(options.tool_parser, tokenizer)
    if options.tool_parser == AUTO:
        return _fitting(tokenizer, template, model_type)
    return BUILT_IN.get(options.tool_parser) or _vllm_parser(options.tool_parser, tokenizer)


def _fitting(tokenizer: "PreTrainedTokenizerBase", template: Template, model_type: str | None) -> Parser:
    """The first that reads the template's own calls: of the built-in ones, then of vLLM's for the model type. Without any, hermes, which is said in the log."""
    turn = template.probe_call()
    if turn is None:
        return BUILT_IN["hermes"]
    for parser in BUILT_IN.values():
        if _reads_probe(parser, turn):
            return parser
    names, missing = parsers_of(model_type), ""
    for name in names:
        try:
            parser = _vllm_parser(name, tokenizer)
        except MissingExtra:
            missing = f" vLLM's parser {name} may read them, but vLLM is not installed."
            break
        except ConfigError:  # its special tokens are not in this vocabulary
            continue
        if _reads_probe(parser, turn):
            return parser
    log.warning(
        "No tool parser is known for the calls that the chat template of this %s model writes.%s Calls in the form of hermes alone are read. "
        "Name a parser with --tool-parser (policy.chat.tool_parser).",
        model_type or "tokenizer's",
        missing,
    )
    return BUILT_IN["hermes"]


def _reads_probe(parser: Parser, turn: str) -> bool:
    _, calls, failures = parser(turn, PROBE_TOOLS)
    if failures or [name for name, _ in calls] != [PROBE_NAME]:
        return False
    try:
        return json.loads(calls[0][1]) == {"x": MARK}
    except ValueError:
        return False


# -- vLLM's parsers ----------------------------------------------------------------------------------------------------


def _vllm_parser(name: str, tokenizer: "PreTrainedTokenizerBase") -> Parser:
    """vLLM's parser of that name."""
    require("vllm")
    prepare_environment()
    from vllm.tool_parsers import ToolParserManager

    if name not in ToolParserManager.list_registered():
        raise ConfigError(
            f"There is no tool parser {name!r}.",
            f"Parsers are {', '.join(BUILT_IN)} (built in), vLLM's ({', '.join(ToolParserManager.list_registered())}), or a plug-in: {FORMS}.",
        )
    return _reader(lambda: ToolParserManager.get_tool_parser(name), name, tokenizer)


def _reader(load: Callable[[], Any], name: str, tokenizer: "PreTrainedTokenizerBase") -> Parser:
    """A parser class of vLLM's over whole texts. It rewrites arguments, so they are not byte for byte what was sampled."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tokenizers.hf import get_cached_tokenizer

    try:
        make, cached = load(), get_cached_tokenizer(tokenizer)  # type: ignore[type-var]
        empty = ChatCompletionRequest.model_validate({"model": "policy", "messages": []})
        make(cached).extract_tool_calls("", empty)
    except NotImplementedError as error:  # vLLM reads these forms elsewhere, token by token
        raise ConfigError(f"The tool parser {name!r} reads no text of a whole turn.", "Name another, or a function of your own as FILE.py:name.") from error  # fmt: skip
    except Exception as error:  # most need special tokens of their own model in the vocabulary
        raise ConfigError(f"The tool parser {name!r} does not fit this model: {one_line(error, 200)}.", "Name the parser of the model's family.") from error  # fmt: skip

    swallowed = _Swallowed(make)

    def parse(text: str, tools: Sequence[Mapping[str, Any]]) -> Parsed:
        listed = [dict(tool) for tool in tools] or None
        request = ChatCompletionRequest.model_validate({"model": "policy", "messages": [], "tools": listed})
        swallowed.count = 0
        try:
            # A parser keeps state of its turn, so each turn gets a new one.
            found = make(cached, request.tools).extract_tool_calls(text, request)
        except Exception:  # the policy wrote the text: a parser that fails on it counts as one unreadable call
            return text, [], 1
        calls = [(call.function.name, call.function.arguments) for call in found.tool_calls]
        failures = max(sum(not is_object(arguments) for _, arguments in calls), min(swallowed.count, 1))
        return (found.content if calls else text), calls, failures

    return parse


class _Swallowed(logging.Filter):
    """Counts exceptions that a parser logs on a text it cannot read, and keeps their traces out of the log."""

    count = 0

    def __init__(self, parser: type) -> None:
        super().__init__()
        for module in {base.__module__ for base in parser.__mro__}:
            logging.getLogger(module).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            self.count += 1
        return not record.exc_info


# -- a user's plug-in --------------------------------------------------------------------------------------------------


def _plugin_parser(spec: str, tokenizer: "PreTrainedTokenizerBase") -> Parser:
    prepare_environment()  # the file may import vLLM
    found = load_plugin(spec, "tool parser")
    if inspect.isclass(found):
        require("vllm")
        return _reader(lambda: found, spec, tokenizer)
    if not callable(found):
        raise ConfigError(f"The tool parser {spec!r} is neither a function nor a parser class.", "docs/models.md has an example.")  # fmt: skip
    return lambda text, tools: _checked(found(text), spec)


def _checked(parsed: Any, spec: str) -> Parsed:
    """Raises FormatError for a value that is not a Parsed."""
    try:
        text, calls, failures = parsed
        pairs = [(name, arguments) for name, arguments in calls]
    except (TypeError, ValueError):
        text, pairs, failures = 0, [], 0
    strings = [part for pair in pairs for part in pair]
    if not (text is None or isinstance(text, str)) or not all(isinstance(part, str) for part in strings) or not isinstance(failures, int):  # fmt: skip
        raise FormatError(f"The tool parser {spec} did not return (text, [(name, JSON text of arguments)], failures).", "See docs/models.md.")  # fmt: skip
    return text, pairs, failures
