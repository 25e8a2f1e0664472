"""The one plug-in rule: user code is named `module:name` or `FILE.py:name`, whatever it is used for.

Environments, engines, scorers, import formats, losses, advantages and tool parsers are all loaded by `load_plugin`.
"""

import hashlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError, RollhouseError, one_line

FORMS = "module:name or FILE.py:name"

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FILE = re.compile(rf"(?P<file>.+\.py)(?::(?P<name>{_NAME}))?", re.DOTALL)
_MODULE = re.compile(rf"(?P<module>{_NAME}):(?P<name>{_NAME})")
_loading = threading.RLock()


@dataclass(frozen=True)
class PluginSpec:
    """A parsed plug-in name.

    Attributes:
        file: The Python file of `FILE.py:name`; None for a module.
        module: The dotted name of `module:name`; None for a file.
        name: The object in it, possibly dotted; None only for a bare `FILE.py`.
    """

    file: Path | None
    module: str | None
    name: str | None

    @property
    def place(self) -> str:
        """The file or the module, as in messages."""
        return str(self.file) if self.file is not None else str(self.module)


def parse_plugin(spec: str) -> PluginSpec | None:
    """The parts of `module:name`, `FILE.py:name` or a bare `FILE.py`; None for a text in no such form.

    Callers that know names with a colon of their own (`nemo-gym:URL`) look for those first.
    """
    if found := _FILE.fullmatch(spec):
        return PluginSpec(Path(found["file"]), None, found["name"])
    if found := _MODULE.fullmatch(spec):
        return PluginSpec(None, found["module"], found["name"])
    return None


def load_plugin(spec: str, what: str) -> Any:
    """The object that `module:name` or `FILE.py:name` names.

    A module is found as Python finds it, in the current folder too. A file is loaded under a module name made of its path and content: loading it
    again returns the same module, and a changed file is another module. Modules beside the file can be imported by it.

    Args:
        what: The kind of the plug-in for messages: `environment`, `scorer`, `loss`, …

    Raises ConfigError for a spec in another form, a missing file, module or name, and for code that raises while it is imported.
    """
    parsed = parse_plugin(spec)
    if parsed is None or parsed.name is None:
        raise ConfigError(
            f"The {what} {spec!r} has no name after the {'file' if parsed else 'module'}.", f"Write {FORMS}."
        )
    module = plugin_module(parsed, what)
    found: Any = module
    for part in parsed.name.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise ConfigError(f"The {what} {spec!r} does not exist: {parsed.place} has no {parsed.name!r}.", _suggestion(module, parsed.name))  # fmt: skip
    return found


def plugin_module(parsed: PluginSpec, what: str) -> ModuleType:
    """The module of a plug-in, imported. Errors as in `load_plugin`."""
    if parsed.file is not None:
        return _load_file(parsed.file, what)
    assert parsed.module is not None
    _add_to_path(os.getcwd(), first=True)
    try:
        return import_module(parsed.module)
    except RollhouseError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{parsed.module}.".startswith(f"{error.name}."):
            message, fix = f"The {what} {parsed.module}:{parsed.name} does not exist: there is no module {error.name!r}.", f"Write {FORMS}."  # fmt: skip
        else:
            message, fix = f"The {what} {parsed.module}:{parsed.name} cannot be imported: {error_place(error)}.", "Correct the module."  # fmt: skip
        raise ConfigError(message, fix) from error


def plugin_hash(spec: str) -> str | None:
    """SHA-256 (64 hex digits) of the file a plug-in is in, for a run's configuration. Imports nothing but parents of a dotted module.

    None for a text that names no plug-in, and for one whose file is missing or not Python source. What the file imports is not hashed.
    """
    parsed = parse_plugin(spec)
    if parsed is None:
        return None
    file = parsed.file if parsed.file is not None else _source_of(parsed.module or "")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else None


def error_place(error: BaseException, file: Path | None = None) -> str:
    """The error on one line, with the line of the file it came from: `line 3: ValueError: …`.

    Args:
        file: None leaves the line out unless the error is a syntax error.
    """
    frames = [] if file is None else [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]  # fmt: skip
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    text = one_line(error.msg if isinstance(error, SyntaxError) else error).rstrip(".")
    return f"{'' if line is None else f'line {line}: '}{type(error).__name__}: {text}"


def _load_file(file: Path, what: str) -> ModuleType:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"The {what} file {file} cannot be read: {error.strerror}.", "Check the path.") from error
    digest = hashlib.sha256(bytes(file.resolve()) + b"\0" + content).hexdigest()[:16]
    name = f"rollhouse_plugin_{re.sub('[^0-9A-Za-z_]', '_', file.stem)}_{digest}"
    with _loading:
        if name in sys.modules:
            return sys.modules[name]
        spec = spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and type hints look their module up
        _add_to_path(str(file.resolve().parent))
        try:
            spec.loader.exec_module(module)
        except RollhouseError:
            del sys.modules[name]
            raise
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ConfigError(f"The {what} file {file} cannot be imported: {error_place(error, file)}.", "Correct the file.") from error  # fmt: skip
        return module


def _add_to_path(folder: str, first: bool = False) -> None:
    """Lets modules of the folder be imported; last, so that none of them hides an installed one, unless `first`."""
    if folder not in sys.path:
        sys.path.insert(0 if first else len(sys.path), folder)


def _source_of(module: str) -> Path | None:
    _add_to_path(os.getcwd(), first=True)
    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _suggestion(module: ModuleType, name: str) -> str:
    """What to write instead: the nearest name of the module, else the names it defines."""
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    near = get_close_matches(name, own, 1)
    return f"Did you mean {near[0]!r}?" if near else f"It defines: {listed(own)}."


def listed(names: Iterable[str], limit: int = 20) -> str:
    """Names for a message, at most `limit` of them, those with a leading underscore left out."""
    public = [name for name in names if not name.startswith("_")]
    return (", ".join(public[:limit]) + (", …" if len(public) > limit else "")) or "nothing"
