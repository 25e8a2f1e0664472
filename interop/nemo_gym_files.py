"""NeMo Gym's files: the results, the inputs that were planned and the attempts that failed, which lie beside them."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .lines import Line, Quarantine, read_objects
from .nemo_gym_rows import Companion, index_key, task_fields
from .rollout import Row


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The rows of the results file, then those of the failures file."""
    yield from read_objects(path, quarantine, on_progress)
    if _beside(path, "failures").is_file():
        yield from read_objects(_beside(path, "failures"), quarantine)


def companion(path: Path, inputs: str | Path | None) -> Companion:
    """What the files beside a results file tell. Raises FormatError for a bad line in the inputs file.

    Args:
        inputs: The planned inputs, which hold the tasks' truths; None looks for `<stem>_materialized_inputs.jsonl`.
    """
    failures = _beside(path, "failures")
    failed = Counter(index_key(row) for _, row in _quietly(failures) if "_ng_failure_class" in row)
    return Companion(_read_inputs(path, inputs, failed), failed)


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}_{name}.jsonl")


def _quietly(path: Path) -> Iterator[tuple[Line, Row]]:
    """Its readable rows; `records` reports the others."""
    if path.is_file():
        yield from read_objects(path, None)


def _read_inputs(
    path: Path, inputs: str | Path | None, failed: Counter[tuple[Any, Any]]
) -> dict[tuple[Any, Any], Row] | None:
    beside = _beside(path, "materialized_inputs")
    if inputs is None and not beside.is_file():
        return None
    file = Path(inputs) if inputs is not None else beside
    found: dict[tuple[Any, Any], Row] = {}
    # One object for the repeats of a task: a plan names each task many times.
    last: Row = {}
    for _, row in read_objects(file, Quarantine(file, strict=True)):
        fields = task_fields(row)
        last = last if fields == last else fields
        # A failed attempt may say nothing of what was asked.
        request = (
            {"responses_create_params": row["responses_create_params"]}
            if index_key(row) in failed and "responses_create_params" in row
            else {}
        )
        found[index_key(row)] = {**last, **request} if request else last
    return found
