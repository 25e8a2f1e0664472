"""An environment of one's own: one Python file with one class.

Everything the class does runs guarded: what goes wrong while it is loaded or lists its tasks is a ConfigError that names the line, and a session is started
in a thread, so that a slow `start` holds up nobody.
"""

import inspect
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from ..base.errors import ConfigError, RollhouseError, one_line
from ..base.threads import in_loop, in_thread
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.task import Task
from .types import Environment, Session

_PARTS = ("tasks", "start")
_EXAMPLE = "examples/library_desk.py shows one."


class OwnEnvironment:
    """A user's environment, checked.

    Attributes:
        name: The class's.
        state_hash: Names the file's content: verdicts of other code are other verdicts.
    """

    def __init__(self, inner: Environment, file: Path, opened_with: tuple[Any, ...]) -> None:
        """`opened_with` are the arguments of `load_own` that give it again in another process."""
        self.name = inner.name
        self.state_hash = hash_id(file.read_text(), getattr(inner, "state_hash", None))
        self._inner = inner
        self._file = file
        self._opened_with = opened_with

    def __reduce__(self) -> Any:
        return _load_again, self._opened_with

    def tasks(self, split: str) -> Iterator[Task]:
        """The tasks of the split. Raises ConfigError for what is no task of this environment, and when there is none."""
        label = f"tasks({split!r}) of {type(self._inner).__name__} in {self._file}"
        number = 0
        try:
            for number, task in enumerate(self._inner.tasks(split), start=1):
                if not isinstance(task, Task):
                    raise ConfigError(f"{label} gives a {type(task).__name__}.", "It gives Task objects of rollhouse.store.task.")  # fmt: skip
                wrong = _wrong_task(task, self.name, split)
                if wrong is not None:
                    raise ConfigError(f"Task {number} of {label} {wrong[0]}.", wrong[1])
                yield task
        except RollhouseError:
            raise
        except Exception as error:
            raise ConfigError(f"{label} fails: {_where(error, self._file)}.", "Correct the file.") from error
        if not number:
            raise ConfigError(f"{label} gives no task.", "Collect on a split that has some: `--split train`.")

    async def start(self, task: Task) -> Session:
        """A fresh session."""
        session = await in_thread(self._inner.start, task)
        return await in_loop(session) if inspect.isawaitable(session) else session


def _wrong_task(task: Task, environment: str, split: str) -> tuple[str, str] | None:
    """What is wrong with a task and what to do, None for a good one. A bad one would be noticed late, when it is hashed or stored."""
    if task.environment != environment:
        return f"is of environment {task.environment!r}, not {environment!r}", "Give it environment=self.name."
    if task.split != split:
        return f"is of split {task.split!r}", "Give it split=split."
    if not _all_of(task.messages, Message) or not task.messages:
        return "has messages that are no messages", 'Give it a tuple such as (Message("user", "…"),).'
    if not _all_of(task.tools, Mapping):
        return "has tools that are no schemas", "Give it a tuple of schemas: (schema_of(function),)."
    for name in ("category", "source_key"):
        if not isinstance(getattr(task, name), str | None):
            return f"has a {name} that is no text", "Make it a string or None."
    if isinstance(task.difficulty, bool) or not isinstance(task.difficulty, int | float | None):
        return f"has the difficulty {task.difficulty!r}", "Make it a number or None."
    said = [(message.text, message.parts) for message in task.messages]
    for name, value in (
        ("prompt", said),
        ("tools", [dict(tool) for tool in task.tools]),
        ("ground_truth", task.ground_truth),
        ("state", task.state),
        ("extra", dict(task.extra)),
    ):
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            return (
                f"has a {name} that is no JSON ({one_line(error, 200)})",
                "Use texts, numbers, lists, and dicts with texts as keys.",
            )
    return None


def _all_of(values: Any, kind: type[Any]) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(value, kind) for value in values)


def load_own(file: Path, class_name: str | None, options: Mapping[str, Any], **given: Any) -> OwnEnvironment:
    """The environment of a file.

    Args:
        class_name: None when the file has one class only.
        options: Arguments of the class's constructor.
        given: What the command line has (`tables`, `tasks`, `seed`, `tasks_split`); the constructor gets those it takes.

    Raises ConfigError, with the line where code of the file failed.
    """
    module = _import(file)
    chosen = _named_class(module, file, class_name) if class_name else _only_class(module, file)
    for part in _PARTS:
        if not callable(getattr(chosen, part, None)):
            raise ConfigError(f"Class {chosen.__name__} in {file} has no method {part}.", _EXAMPLE)
    arguments = _arguments(chosen, file, options, given)
    try:
        inner = chosen(**arguments)
    except RollhouseError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{chosen.__name__}() in {file} fails: {_where(error, file)}.", "Correct the file."
        ) from error
    if not isinstance(getattr(inner, "name", None), str) or not inner.name:
        raise ConfigError(f"Class {chosen.__name__} in {file} has no name.", 'Write `name = "…"` in it: rollouts carry it.')  # fmt: skip
    return OwnEnvironment(inner, file, (str(file.resolve()), chosen.__name__, dict(options), given))


def _load_again(file: str, class_name: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> OwnEnvironment:
    return load_own(Path(file), class_name, options, **given)


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"There is no environment file {file}.", "Check the path given with --env.")
    name = f"rollhouse_own_{file.stem}_{hash_id(str(file.resolve()))[:8]}"
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up
    folder = str(file.resolve().parent)
    if folder not in sys.path:  # for modules beside the file; last, so that none hides an installed one
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"{file} cannot be imported: {_where(error, file)}.", "Correct the file.") from error
    return module


def _named_class(module: ModuleType, file: Path, class_name: str) -> type[Any]:
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise ConfigError(f"There is no class {class_name!r} in {file}.", f"It has: {_names(_classes(module))}.")
    return found


def _only_class(module: ModuleType, file: Path) -> type[Any]:
    found = [one for one in _classes(module) if any(hasattr(one, part) for part in _PARTS)]
    if not found:
        raise ConfigError(f"{file} has no class with the methods tasks and start.", _EXAMPLE)
    if len(found) > 1:
        raise ConfigError(f"{file} has several environments: {_names(found)}.", f"Name one: --env {file}:{found[0].__name__}.")  # fmt: skip
    return found[0]


def _classes(module: ModuleType) -> list[type[Any]]:
    """Those the file itself defines."""
    return [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]


def _names(classes: list[type[Any]]) -> str:
    return ", ".join(one.__name__ for one in classes) or "no class"


def _arguments(chosen: type[Any], file: Path, options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    taken = inspect.signature(chosen).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    # A seed and a split are always there; a folder or a file only when the user names it.
    asked = {name: value for name, value in given.items() if name in ("tables", "tasks") and value is not None}
    for name in {**asked, **options}:
        if name not in taken and not takes_all:
            raise ConfigError(f"Class {chosen.__name__} in {file} takes no argument {name!r}.", f"It takes: {', '.join(taken) or 'none'}.")  # fmt: skip
    return {**{name: value for name, value in given.items() if name in taken}, **options}


def _where(error: BaseException, file: Path) -> str:
    """What went wrong and on which line of the file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
    said = one_line(error.msg if isinstance(error, SyntaxError) else error).rstrip(".")
    return f"{'' if line is None else f'line {line}: '}{type(error).__name__}: {said}"
