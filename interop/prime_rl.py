"""prime-rl's rollouts on disk: `rollouts/step_N/KIND/SUBSET/traces.jsonl` of today, and the shapes before it; a file or the whole folder.

Lines are verifiers episodes; earlier ones were single traces with the orchestrator's fields, or verifiers' results of version 0. The subset
`effective` was trained on and `all` repeats it: of a trace in both the first is read.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..store.content import is_empty
from . import verifiers, verifiers_v0
from .lines import Line, Quarantine, read_objects
from .rollout import FileRollout, Row
from .sample import FileSample
from .storing import Source
from .values import present
from .verifiers_nodes import NODES

_FORMAT = "prime-rl"
_STEP = re.compile(r"step_(\d+)")
_PLACE = "_rollhouse_place"
_FILES = ("traces.jsonl", "*rollouts*.jsonl")
_ORCHESTRATOR = ("kind", "env_name", "group_id", "policy_version", "eval_step")


def signs(sample: FileSample) -> str | None:
    """Lines with the orchestrator's fields, a traces.jsonl under step_N, or a folder with such files."""
    if sample.have("nodes", "env_name", "policy_version"):
        return "its lines are traces with env_name and policy_version"
    names = [str(sample.path), *sample.members] if sample.kind in ("lines", "folder") else []
    if any(_STEP.search(name) and name.endswith(("traces.jsonl", "rollouts.jsonl")) for name in names):
        return "it has rollouts of steps (step_N/…/traces.jsonl)"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The lines of a file or of a folder's files, in the order of steps, with the step and kind that the path names."""
    files = [path] if path.is_file() else sorted({file for name in _FILES for file in path.rglob(name)}, key=_order)
    seen: set[Any] = set()
    done = 0
    for file in files:
        for line, record in read_objects(file, quarantine):
            id = record.get("id") or record.get("trajectory_id")
            id = id if isinstance(id, str) else None
            if id is None or id not in seen:
                yield line, {**record, _PLACE: _place(file)}
            if id is not None:
                seen.add(id)
        done += file.stat().st_size
        if on_progress:
            on_progress(done)


def _order(file: Path) -> tuple[int, bool, str]:
    return _place(file)["step"] or 0, "all" in file.parts, str(file)


def _place(file: Path) -> Row:
    found = _STEP.search(str(file.resolve()))
    is_eval = "eval" in file.parts or file.name.startswith("eval_")
    return {"step": int(found[1]) if found else None, "kind": "eval" if is_eval else "train"}


def read(record: Row, source: Source) -> list[FileRollout]:
    """The rollouts of one line."""
    place = record.get(_PLACE) or {}
    line = {name: value for name, value in record.items() if name != _PLACE}
    if "traces" in line:
        rollouts = verifiers.read(line, source)
    elif "nodes" in line:
        rollouts = verifiers.read(_episode(line), source)
        told = {name: line[name] for name in _ORCHESTRATOR if line.get(name) is not None}
        rollouts[0].extra[_FORMAT] = told
    else:
        rollouts = verifiers_v0.read(line, source)
    for rollout in rollouts:
        data = _task_data(line, rollout)
        if data and rollout.task is not None:
            rollout.task["extra"] = data
        if rollout.get("step") is None:
            rollout.columns["step"] = place.get("step")
        if (line.get("kind") or place.get("kind")) == "eval" and rollout.task is not None:
            rollout.task["split"] = "validation"
    return rollouts


def _task_data(line: Row, rollout: FileRollout) -> Row:
    """The fields of a rollout's task beside truth and category, which no overlay keeps here."""
    traces = line.get("traces") or [line]
    data = present(line, "task.data") or present(traces[rollout.extra.get(NODES, {}).get("trace", 0)], "task.data") or {}  # fmt: skip
    return {name: value for name, value in data.items() if name not in ("answer", "ground_truth", "category") and not is_empty(value)}  # fmt: skip


def _episode(trace: Row) -> Row:
    """The episode of a trace that stands alone."""
    version = trace.get("policy_version")
    work = {"policy": {"start": version, "end": version}, "step": trace.get("eval_step")}
    rest = {name: value for name, value in trace.items() if name not in _ORCHESTRATOR}
    group = {"id": trace["group_id"]} if trace.get("group_id") else {}
    return {"env": {"id": trace.get("env_name")}, "group": group, "run": {"work": work}, "ok": trace.get("ok", True), "traces": [rest]}  # fmt: skip
