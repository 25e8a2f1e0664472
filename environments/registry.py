"""Environments by name, and the tasks of a split."""

import inspect
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..base.errors import ConfigError, one_line
from ..base.plugins import parse_plugin
from ..base.redaction import redacted_values
from ..store.task import Task
from .types import Environment

NAMES = ("workplace", "workplace-mini", "math", "python-sandbox")
_FORMS = "FILE.py:CLASS, module:CLASS, nemo-gym:URL, verifiers:NAME, harbor:FOLDER and mcp:COMMAND_OR_URL"
_ADAPTERS = ("nemo-gym", "verifiers", "harbor", "mcp")


def load_environment(
    name: str,
    /,
    tables: str | Path | None = None,
    tasks: str | Path | None = None,
    seed: int | None = 0,
    tasks_split: str | None = None,
    **options: Any,
) -> Environment:
    """The environment of that name. Raises ConfigError for an unknown name, a missing file, or an option it does not take.

    Args:
        name: One of NAMES; a user's class as `FILE.py:Class`, `module:Class`, or `FILE.py` when the file has one environment;
            `nemo-gym:URL`, a running NeMo Gym resources server; `verifiers:NAME`, an environment of the verifiers package; `harbor:FOLDER`, task folders; `mcp:COMMAND_OR_URL`, a tasks file with the tools of an MCP server.
        tables: Folder of the environment's tables, where it has any.
        tasks: Tasks file, for an environment that does not generate its own.
        seed: Seed of generated tasks; None is 0.
        tasks_split: Split of the tasks file's rows that name none; None is train.
        options: Further arguments of the environment's constructor.
    """
    split = tasks_split or "train"
    kind, _, rest = name.partition(":")
    if name == "workplace":
        from .workplace import WorkplaceEnvironment

        places = {"tables": None if tables is None else Path(tables), "tasks": None if tasks is None else Path(tasks)}
        return _made(WorkplaceEnvironment, name, options, **places, tasks_split=split, seed=seed or 0)
    if name == "workplace-mini":
        from .workplace_mini import MiniEnvironment

        return _made(MiniEnvironment, name, options, seed=seed or 0)
    if name == "math":
        from .math import MathEnvironment

        return _made(MathEnvironment, name, options, tasks=tasks, seed=seed or 0, tasks_split=split)
    if name == "python-sandbox":
        from .python_sandbox import SandboxEnvironment

        return _made(SandboxEnvironment, name, options, tasks=tasks, seed=seed or 0, tasks_split=split)
    if kind == "nemo-gym":
        from .adapters.nemo_gym import NemoGymEnvironment

        return _made(NemoGymEnvironment, kind, options, url=rest, tasks=tasks, tasks_split=split)
    if kind == "verifiers":
        from .adapters.verifiers import VerifiersEnvironment

        return _made(VerifiersEnvironment, kind, options, env_id=rest)
    if kind == "harbor":
        from .harbor import HarborEnvironment

        return _made(HarborEnvironment, kind, options, folder=rest, tasks_split=split)
    if kind == "mcp":
        from .mcp_tools.environment import McpEnvironment

        return _made(McpEnvironment, kind, options, server=rest, tasks=tasks, tasks_split=split)
    if is_user_environment(name):
        from .user_environment import load_user_environment

        return load_user_environment(name, options, tables=tables, tasks=tasks, seed=seed or 0, tasks_split=split)
    raise ConfigError(f"There is no environment {name!r}.", f"Environments are {', '.join(NAMES)}, {_FORMS}.")


def generated_tasks(
    name: str,
    splits: Sequence[str],
    count: int | None = None,
    /,
    tables: str | Path | None = None,
    tasks: str | Path | None = None,
    seed: int | None = 0,
    tasks_split: str | None = None,
) -> dict[str, list[Task]]:
    """The environment's tasks by split.

    Args:
        count: How many of each split a built-in generator makes; the most that are taken of any other source. None is all.
    """
    sizes = {} if count is None or name not in NAMES else dict.fromkeys(("n_train", "n_validation", "n_test"), count)
    environment = load_environment(name, tables, tasks, seed, tasks_split, **sizes)
    return {split: list(islice(environment.tasks(split), count)) for split in splits}


def _made(kind: type[Any], name: str, options: Mapping[str, Any], **given: Any) -> Environment:
    """The environment with the user's options. Raises ConfigError for an unknown option and for a value of the wrong type."""
    takes = [option for option in inspect.signature(kind).parameters if option not in given]
    for option in options:
        if option not in takes:
            raise ConfigError(f"The environment {name} takes no option {option!r}.", f"It takes: {', '.join(takes) or 'none'}.")  # fmt: skip
    hints = get_type_hints(kind.__init__)
    checked: dict[str, Any] = {}
    for option, value in options.items():
        try:
            checked[option] = TypeAdapter(hints[option]).validate_python(value)
        except ValidationError as error:
            raise ConfigError(f"The option {option} of {name} is {one_line(repr(redacted_values(value)), 80)}: {one_line(error.errors()[0]['msg'])}.", "Correct it.") from None  # fmt: skip
    return kind(**given, **checked)


def is_user_environment(name: str) -> bool:
    """Whether the name is a plug-in (`FILE.py`, `FILE.py:Class` or `module:Class`) and not of an adapter."""
    return parse_plugin(name) is not None and name.partition(":")[0] not in _ADAPTERS


def tasks_of(environment: Environment, split: str, limit: int | None = None) -> list[Task]:
    """The tasks of a split, at most `limit` of them. Raises ConfigError when it has none."""
    tasks = list(islice(environment.tasks(split), limit))
    if not tasks:
        raise ConfigError(
            f"{environment.name} has no task in split {split!r}.",
            "Rows of a tasks file without a split belong to train: choose `--split train`, "
            f"or set the split of such rows with `--tasks-split {split}`.",
        )
    return tasks
