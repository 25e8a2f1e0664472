"""A user's environment: one class with `name`, `tasks` and `start`, named `FILE.py`, `FILE.py:Class` or `module:Class`.

Code of the class is guarded: an error while it is imported, constructed or lists its tasks is a ConfigError with the line, and a session is
started in a thread, so that a slow `start` does not block other rollouts.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, RollhouseError, SchemaMismatch, one_line
from ..base.plugins import FORMS, PluginSpec, error_place, listed, load_plugin, parse_plugin, plugin_module
from ..base.threads import in_loop, in_thread
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.task import Task
from .types import Environment, Session

_METHODS = ("tasks", "start")
_EXAMPLE = "See examples/library_desk.py."


class UserEnvironment:
    """A user's environment, whose tasks are checked.

    Attributes:
        name: The class's.
        state_hash: Hash of the file's content, so that verdicts of other code count as other verdicts.
    """

    def __init__(self, inner: Environment, file: Path, opened_with: tuple[Any, ...]) -> None:
        """`opened_with` are the arguments of `load_user_environment` that load it again in another process."""
        self.name = inner.name
        self.state_hash = hash_id(file.read_text(), getattr(inner, "state_hash", None))
        self._inner = inner
        self._file = file
        self._opened_with = opened_with

    def __reduce__(self) -> Any:
        return _load_again, self._opened_with

    def tasks(self, split: str) -> Iterator[Task]:
        """The tasks of the split. Raises ConfigError for an object that is not a valid task of this environment, and when there is no task."""
        label = f"tasks({split!r}) of {type(self._inner).__name__} in {self._file}"
        number = 0
        try:
            for number, task in enumerate(self._inner.tasks(split), start=1):
                if not isinstance(task, Task):
                    raise ConfigError(f"{label} yields an object of type {type(task).__name__}.", "Yield Task objects of rollhouse.store.task.")  # fmt: skip
                wrong = _wrong_task(task, self.name, split)
                if wrong is not None:
                    raise ConfigError(f"Task {number} of {label} {wrong[0]}.", wrong[1])
                yield task
        except SchemaMismatch as error:  # of the constructor of Task
            raise ConfigError(f"Task {number + 1} of {label} is invalid: {error.message}", error.fix) from error
        except RollhouseError:
            raise
        except Exception as error:
            raise ConfigError(f"{label} raises an error: {error_place(error, self._file)}.", "Correct the file.") from error  # fmt: skip
        if not number:
            raise ConfigError(f"{label} yields no task.", "Choose a split that has tasks: `--split train`.")

    async def start(self, task: Task) -> Session:
        """A fresh session."""
        session = await in_thread(self._inner.start, task)
        return await in_loop(session) if inspect.isawaitable(session) else session


def _wrong_task(task: Task, environment: str, split: str) -> tuple[str, str] | None:
    """What is wrong with a task and how to fix it; None for a valid one. Otherwise it would fail late, when it is hashed or stored."""
    if task.environment != environment:
        return f"has environment {task.environment!r} instead of {environment!r}", "Pass environment=self.name."
    if task.split != split:
        return f"has split {task.split!r}", "Pass split=split."
    if not _all_of(task.messages, Message) or not task.messages:
        return "has messages that are not Message objects", 'Pass a tuple such as (Message("user", "…"),).'
    if not _all_of(task.tools, Mapping):
        return "has tools that are not schemas", "Pass a tuple of schemas: (schema_of(function),)."
    for name in ("category", "source_key"):
        if not isinstance(getattr(task, name), str | None):
            return f"has a {name} that is not a string", "Pass a string or None."
    if isinstance(task.difficulty, bool) or not isinstance(task.difficulty, int | float | None):
        return f"has the difficulty {task.difficulty!r}", "Pass a number or None."
    prompt = [(message.text, message.parts) for message in task.messages]
    for name, value in (
        ("prompt", prompt),
        ("tools", [dict(tool) for tool in task.tools]),
        ("ground_truth", task.ground_truth),
        ("state", task.state),
        ("extra", dict(task.extra)),
    ):
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            return (
                f"has a {name} that is not JSON ({one_line(error, 200)})",
                "Use strings, numbers, lists, and dictionaries with string keys.",
            )
    return None


def _all_of(values: Any, kind: type[Any]) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(value, kind) for value in values)


def load_user_environment(spec: str, options: Mapping[str, Any], **given: Any) -> UserEnvironment:
    """The environment of a class in a file or a module.

    Args:
        spec: `FILE.py:Class`, `module:Class`, or `FILE.py` when the file has one environment class.
        options: Arguments of the class's constructor.
        given: Values of the command (`tables`, `tasks`, `seed`, `tasks_split`); the constructor gets those it takes.

    Raises ConfigError, with the line where code of the file failed.
    """
    parsed = parse_plugin(spec)
    if parsed is None:
        raise ConfigError(f"The environment {spec!r} is not a plug-in name.", f"Write {FORMS}.")
    chosen = _only_class(parsed, parsed.file) if parsed.name is None and parsed.file else load_plugin(spec, "environment")  # fmt: skip
    if not inspect.isclass(chosen):
        raise ConfigError(f"The environment {spec!r} is not a class.", _EXAMPLE)
    file = parsed.file or Path(inspect.getfile(chosen))
    for method in _METHODS:
        if not callable(getattr(chosen, method, None)):
            raise ConfigError(f"Class {chosen.__name__} in {file} has no method {method}.", _EXAMPLE)
    arguments = _arguments(chosen, file, options, given)
    make: Any = chosen
    try:
        inner = make(**arguments)
    except RollhouseError:
        raise
    except Exception as error:
        raise ConfigError(f"{chosen.__name__}() in {file} raises an error: {error_place(error, file)}.", "Correct the file.") from error  # fmt: skip
    if not isinstance(getattr(inner, "name", None), str) or not inner.name:
        raise ConfigError(f"Class {chosen.__name__} in {file} has no name.", 'Write `name = "…"` in it: rollouts store it.')  # fmt: skip
    whole = f"{file.resolve()}:{chosen.__qualname__}" if parsed.file else spec
    return UserEnvironment(inner, file, (whole, dict(options), given))


def _load_again(spec: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> UserEnvironment:
    return load_user_environment(spec, options, **given)


def _only_class(parsed: PluginSpec, file: Path) -> type[Any]:
    module = plugin_module(parsed, "environment")
    # Those the file itself defines.
    classes = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
    found = [one for one in classes if any(hasattr(one, method) for method in _METHODS)]
    if not found:
        raise ConfigError(f"{file} has no class with the methods tasks and start.", _EXAMPLE)
    if len(found) > 1:
        names = listed(one.__name__ for one in found)
        raise ConfigError(f"{file} has several environments: {names}.", f"Name one: --env {file}:{found[0].__name__}.")
    return found[0]


def _arguments(chosen: type[Any], file: Path, options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    taken = inspect.signature(chosen).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    # Seed and split always have a value; a folder or a file is refused only when the user names one.
    named = {name: value for name, value in given.items() if name in ("tables", "tasks") and value is not None}
    for name in {**named, **options}:
        if name not in taken and not takes_all:
            raise ConfigError(f"Class {chosen.__name__} in {file} takes no argument {name!r}.", f"It takes: {', '.join(taken) or 'none'}.")  # fmt: skip
    return {**{name: value for name, value in given.items() if name in taken}, **options}
