"""From a sampled turn's text to thinking, words and tool calls: our own reader of the Hermes form, vLLM's by name, or a user's file.

A user's file is one function::

    def parse(text: str) -> tuple[str | None, list[tuple[str, str]], int]:
        '''The words outside the calls (None for none), each call's (name, JSON text of its arguments), and how many calls
        could not be read.'''

or a module that registers a parser class with vLLM, as `vllm serve --tool-parser-plugin` takes it.
"""

import hashlib
import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError, FormatError, one_line
from .chat_options import ChatOptions, read_file
from .engines.environment import prepare_environment
from .hermes import parse_turn
from .models import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Parsed = tuple[str | None, list[tuple[str, str]], int]
"""Words outside the calls, (name, arguments' text) of each call, and how many calls could not be read."""
Parser = Callable[[str, Sequence[Mapping[str, Any]]], Parsed]
"""Text of a turn without thinking, and the task's tools."""

OPEN, CLOSE = "<think>", "</think>"


def opens_thinking(prompt: str) -> bool:
    """Whether a prompt ends in an opened `<think>`, so that what is sampled begins inside it."""
    return prompt.rstrip().endswith(OPEN)


def split_thinking(text: str, opened: bool = False) -> tuple[str | None, str]:
    """The thinking at a turn's start and the rest; None without any.

    Line ends around the thinking belong to neither. `opened` says that the prompt held the opening tag.
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


def load_parser(options: ChatOptions, tokenizer: "PreTrainedTokenizerBase") -> Parser:
    """The parser the options name. Raises ConfigError when there is none such, MissingExtra when it is vLLM's and vLLM is not installed."""
    if options.parser_plugin is not None:
        return _plugin(options.parser_plugin, options.tool_parser, tokenizer)
    if options.tool_parser == "hermes":
        return _hermes
    return _vllm_parser(options.tool_parser, tokenizer)


def _hermes(text: str, tools: Sequence[Mapping[str, Any]]) -> Parsed:
    message, failures = parse_turn(text)
    return message.text, [(call.name, call.arguments) for call in message.tool_calls], failures


# -- vLLM's parsers ----------------------------------------------------------------------------------------------------


def _vllm_parser(name: str, tokenizer: "PreTrainedTokenizerBase") -> Parser:
    """vLLM's parser of that name over whole texts. It writes arguments anew, so they are not byte for byte what was sampled."""
    manager = _parser_manager()
    if name not in manager.list_registered():
        raise ConfigError(
            f"There is no tool parser {name!r}.",
            f"Parsers are hermes (ours) and vLLM's: {', '.join(manager.list_registered())}; or name a file with --tool-parser-plugin.",
        )
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tokenizers.hf import get_cached_tokenizer

    try:
        make, cached = manager.get_tool_parser(name), get_cached_tokenizer(tokenizer)  # type: ignore[type-var]
        make(cached)
    except Exception as error:  # most want tokens of their own model in the vocabulary
        raise ConfigError(f"The tool parser {name!r} does not fit this model: {one_line(error, 200)}.", "Name the parser of its family.") from error  # fmt: skip

    swallowed = _Swallowed(make)

    def parse(text: str, tools: Sequence[Mapping[str, Any]]) -> Parsed:
        listed = [dict(tool) for tool in tools] or None
        request = ChatCompletionRequest.model_validate({"model": "policy", "messages": [], "tools": listed})
        swallowed.count = 0
        try:
            # A parser keeps state of its turn, so each turn has its own.
            found = make(cached, request.tools).extract_tool_calls(text, request)
        except Exception:  # the text is the policy's: what no parser can read is a failure of the policy
            return text, [], 1
        calls = [(call.function.name, call.function.arguments) for call in found.tool_calls]
        failures = max(sum(not _is_object(arguments) for _, arguments in calls), min(swallowed.count, 1))
        return (found.content if calls else text), calls, failures

    return parse


class _Swallowed(logging.Filter):
    """Counts what a parser only logs: an exception on a text it cannot read. The log is spared a trace for each such turn."""

    count = 0

    def __init__(self, parser: type) -> None:
        super().__init__()
        for module in {base.__module__ for base in parser.__mro__}:
            logging.getLogger(module).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            self.count += 1
        return not record.exc_info


def _parser_manager() -> Any:
    require("vllm")
    prepare_environment()
    from vllm.tool_parsers import ToolParserManager

    return ToolParserManager


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


# -- a user's file -----------------------------------------------------------------------------------------------------


def _plugin(path: str, name: str, tokenizer: "PreTrainedTokenizerBase") -> Parser:
    registered = set(_registered())
    module = _load(path)
    function = getattr(module, "parse", None)
    if callable(function):
        return lambda text, tools: _checked(function(text), path)
    new = sorted(set(_registered()) - registered) or sorted(_named_in(module))
    if name not in new and len(new) != 1:
        raise ConfigError(
            f"{path} has no function parse(text) and registers {'the parsers ' + ', '.join(new) if new else 'no parser with vLLM'}.",
            "Name the one to use with --tool-parser."
            if new
            else "Write one of the two; docs/models.md has an example.",
        )
    return _vllm_parser(name if name in new else new[0], tokenizer)


def _load(path: str) -> Any:
    source = read_file(path, "--tool-parser-plugin")
    # Named after its content: two files of one name are two modules, and one file is loaded once.
    name = f"rollhouse_parser_{hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, Path(path).resolve())
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file.", "Name a file that ends in .py.")
    prepare_environment()  # the file may import vLLM
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be loaded: {type(error).__name__}: {one_line(error, 200)}.", "Mend the file.") from error  # fmt: skip
    return module


def _registered() -> list[str]:
    """Parsers vLLM knows by now; none while nothing has imported it."""
    manager = getattr(sys.modules.get("vllm.tool_parsers"), "ToolParserManager", None)
    return manager.list_registered() if manager is not None else []


def _named_in(module: Any) -> list[str]:
    """Names a module loaded earlier has registered."""
    manager = getattr(sys.modules.get("vllm.tool_parsers"), "ToolParserManager", None)
    lazy = manager.lazy_parsers.items() if manager is not None else ()
    return [name for name, (where, _) in lazy if where == module.__name__]


def _checked(parsed: Any, path: str) -> Parsed:
    """Raises FormatError for what is not a Parsed."""
    try:
        words, calls, failures = parsed
        pairs = [(name, arguments) for name, arguments in calls]
    except (TypeError, ValueError):
        words, pairs, failures = 0, [], 0
    texts = [text for pair in pairs for text in pair]
    if not (words is None or isinstance(words, str)) or not all(isinstance(text, str) for text in texts) or not isinstance(failures, int):  # fmt: skip
        raise FormatError(f"parse(text) of {path} did not return (words, [(name, arguments' text)], failures).", "See docs/models.md.")  # fmt: skip
    return words, pairs, failures
