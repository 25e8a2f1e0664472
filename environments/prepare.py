"""Prepares dataset files: checks and stamps every row, merges files into one per split, and counts the contents."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import IO, Any

from ..base.errors import ConfigError, FormatError, one_line
from ..interop.lines import read_lines, whole_file, write_objects
from ..store.ids import canonical_json, hash_id
from ..store.task import Task
from .tasks_file import SPLITS, task_from_row

METRICS, PROBLEMS = "metrics.json", "problems.jsonl"
_AGENT_TYPE = "responses_api_agents"
_RESERVED = {"verify", "seed_session"}  # the resources server's own addresses, where tools have theirs
_SHOWN = 200


@dataclass
class SplitCounts:
    """The rows written of one split. Prompt lengths are in characters of the messages' texts."""

    rows: int = 0
    agents: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    n_tools: list[int] = field(default_factory=list)
    prompt_chars: list[int] = field(default_factory=list)
    prompts: set[str] = field(default_factory=set)
    indices: dict[str, int] = field(default_factory=dict)

    def add(self, agent: str, task: Task) -> None:
        """Counts one row."""
        self.rows += 1
        self.agents[agent] += 1
        self.categories[task.category or ""] += 1
        self.n_tools.append(len(task.tools))
        self.prompt_chars.append(sum(len(message.text or message.parts or "") for message in task.messages))
        self.prompts.add(task.prompt_id)

    def as_dict(self, file: Path) -> dict[str, Any]:
        """For the metrics file."""
        return {
            "file": file.name,
            "sha256": _sha256(file),
            "rows": self.rows,
            "tasks": len(self.indices),
            "prompts": len(self.prompts),
            "by_agent": dict(sorted(self.agents.items())),
            "by_category": dict(sorted(self.categories.items())),
            "n_tools": _spread(self.n_tools),
            "prompt_chars": _spread(self.prompt_chars),
        }


def prepare_tasks(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    validation_files: Sequence[str | Path] = (),
    agent: str | None = None,
    split: str = "train",
    validation_share: float = 0.0,
    dedupe: bool = False,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Checks rows of NeMo Gym's dataset format and writes `train.jsonl`, `validation.jsonl` and `test.jsonl` (those that get rows) and `metrics.json`.

    Each row gets its `agent_ref` in full and a `_ng_task_index`: equal rows share one, numbered by first appearance in the file written. The same input
    gives the same bytes.

    Args:
        validation_files: Files whose rows are of validation unless they name another split.
        agent: For rows without one.
        split: Of rows of `files` without one.
        validation_share: Share of the rows without a split that go to validation, chosen by a hash of their prompt, so that equal prompts stay together.
        dedupe: Write equal rows of a split once.
        skip_bad: Leave bad rows out, and write them with their reasons to `problems.jsonl`; without it nothing is written when there are any.

    Returns the content of the metrics file. Raises FormatError that lists the problems by file and line, and ConfigError.
    """
    out = Path(out)
    if split not in SPLITS or not 0 <= validation_share < 1:
        raise ConfigError(f"The split {split!r} or the share {validation_share:g} cannot be.", "Use train, validation or test, and a share below 1.")  # fmt: skip
    sources = [_Source(Path(file), split, validation_share) for file in files]
    sources += [_Source(Path(file), "validation", 0.0) for file in validation_files]
    targets = {name: out / f"{name}.jsonl" for name in SPLITS}
    _refuse_own_output(sources, targets)
    counts = {name: SplitCounts() for name in SPLITS}
    problems: list[dict[str, Any]] = []
    repeated = 0
    with ExitStack() as stack:
        open_files: dict[str, IO[str]] = {}
        for place, row, task in _good_rows(sources, agent, problems):
            count, key = counts[place], hash_id(canonical_json(row))
            if dedupe and key in count.indices:
                repeated += 1
                continue
            index = count.indices.setdefault(key, len(count.indices))
            if place not in open_files:
                open_files[place] = stack.enter_context(whole_file(targets[place]))
            open_files[place].write(json.dumps({**row, "_ng_task_index": index}, ensure_ascii=False) + "\n")
            count.add(row["agent_ref"]["name"], task)
        if problems and not skip_bad:
            raise _all_wrong(problems)
        if not open_files:
            raise FormatError("The files contain no task.", "Name files with one task a line.")
        _refuse_leftovers(targets, open_files.keys())
    if problems:
        write_objects(problems, out / PROBLEMS)
    metrics = {
        "sources": [{"file": source.file.name, "sha256": _sha256(source.file)} for source in sources],
        "splits": {name: count.as_dict(targets[name]) for name, count in counts.items() if count.rows},
        "bad_rows": len(problems),
        "repeated_rows_left_out": repeated,
        "prompts_of_train_in_others": len(counts["train"].prompts & (counts["validation"].prompts | counts["test"].prompts)),
    }  # fmt: skip
    with whole_file(out / METRICS) as file:
        file.write(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    return metrics


@dataclass(frozen=True)
class _Source:
    """A file, the split of its rows that name none, and the share of those that goes to validation."""

    file: Path
    split: str
    validation_share: float


def _good_rows(
    sources: Sequence[_Source], agent: str | None, problems: list[dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any], Task]]:
    """(split, stamped row, task) of each good row; problems of the others are added to `problems`."""
    for source in sources:
        for line in read_lines(source.file):
            row, task, wrong = check_row(line.text, agent, source.split)
            if task is None or wrong:
                problems.append({"source": str(source.file), "line": line.number, "reasons": wrong, "text": line.text})
                continue
            named = row.get("split") in SPLITS
            yield "validation" if not named and _held_out(task, source.validation_share) else task.split, row, task


def check_row(text: str, agent: str | None, split: str) -> tuple[dict[str, Any], Task | None, list[str]]:
    """One line as the row to write, as a task (None if invalid), and its problems.

    Args:
        agent: For a row that names none.
        split: Of a row that names none.
    """
    try:
        row = json.loads(text, parse_constant=_no_constant)
        text.encode()
        json.dumps(row, ensure_ascii=False).encode()  # an escape can stand for half a character
    except (ValueError, RecursionError) as error:
        return {}, None, [f"it is not JSON ({error})"]
    if not isinstance(row, dict):
        return {}, None, ["it is not a JSON object"]
    row.pop("_ng_task_index", None)  # of the file it came from
    wrong = _stamp(row, agent)
    try:
        task = task_from_row(row, "", split)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        return row, None, [*wrong, f"it is not a task: {reason}"]
    if not any(message.text or message.parts for message in task.messages):
        wrong.append("its input is empty")
    return row, task, wrong + _wrong_tools(task)


def _stamp(row: dict[str, Any], agent: str | None) -> list[str]:
    """Completes the row's `agent_ref` in place; returns its problems."""
    given = row.get("agent_ref")
    if given is None and agent is None:
        return ["it has no agent_ref, and --agent names none"]
    given = {"name": agent} if given is None else {"name": given} if isinstance(given, str) else given
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not given["name"]:
        return ["its agent_ref has no name"]
    row["agent_ref"] = {"type": _AGENT_TYPE, **given}
    return []


def _wrong_tools(task: Task) -> list[str]:
    wrong, seen = [], set()
    for number, tool in enumerate(task.tools):
        if tool.get("type", "function") != "function":
            continue  # a tool of the endpoint's own (web search, …) has no schema
        function = tool["function"] if isinstance(tool["function"], dict) else {}
        name = function.get("name")
        if not isinstance(name, str) or not name:
            wrong.append(f"tool {number} has no name")
        elif name in seen:
            wrong.append(f"two tools are called {name}")
        elif name in _RESERVED:
            wrong.append(f"a tool is called {name}, which is an address of the resources server")
        if not isinstance(function.get("parameters") or {}, dict):
            wrong.append(f"the parameters of tool {number} are not a schema")
        seen.add(str(name))
    return wrong


def _held_out(task: Task, share: float) -> bool:
    return int(hash_id("held out", task.prompt_id)[:12], 16) / 16**12 < share


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refuse_own_output(sources: Sequence[_Source], targets: Mapping[str, Path]) -> None:
    if not sources:
        raise ConfigError("There is no file to prepare.", "Name one or more.")
    written = {target.resolve() for target in targets.values()}
    for source in sources:
        if source.file.resolve() in written:
            raise ConfigError(f"{source.file} would be overwritten by its result.", "Name another folder with --out.")  # fmt: skip


def _refuse_leftovers(targets: Mapping[str, Path], written: Collection[str]) -> None:
    for name, target in targets.items():
        if name not in written and target.exists():
            raise ConfigError(f"{target} is there already, and no row is of {name}.", "Remove it, or name another folder with --out.")  # fmt: skip


def _all_wrong(problems: Sequence[dict[str, Any]]) -> FormatError:
    lines = [f"{one['source']}:{one['line']}: {one_line('; '.join(one['reasons']))}" for one in problems]
    shown = lines[:_SHOWN] + ([f"… and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])
    rows = "1 row is not a task" if len(lines) == 1 else f"{len(lines)} rows are not tasks"
    return FormatError(
        f"{rows}:\n" + "\n".join(shown), "Nothing was written. Correct them, or leave them out with --skip-bad, which lists them all."
    )  # fmt: skip


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "max": max(values), "mean": round(fmean(values), 3)}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
