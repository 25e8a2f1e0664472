"""NeMo Gym's files: the results, the inputs that were planned and the attempts that failed, which lie beside them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ..base.errors import FormatError
from .lines import Line, Quarantine, read_objects
from .nemo_gym_inputs import Key, PlannedInputs, attempt_key, index_key
from .nemo_gym_rows import Companion
from .rollout import Row


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The rows of the results file, then those of the failures file."""
    yield from read_objects(path, quarantine, on_progress)
    if _beside(path, "failures").is_file():
        yield from read_objects(_beside(path, "failures"), quarantine)


def companion(path: Path, inputs: str | Path | None) -> Companion:
    """What the files beside a results file hold. Raises FormatError for a bad line in the inputs file.

    Args:
        inputs: The planned inputs, which hold the tasks' truths; None looks for `<stem>_materialized_inputs.jsonl`.
    """
    failures = _beside(path, "failures")
    keys = [attempt_key(row) for _, row in _quietly(failures) if "_ng_failure_class" in row]
    indices = {index_key(row) for _, row in _quietly(failures) if "responses_create_params" not in row}
    failed = Counter(key for key in keys if key is not None)
    return Companion(_read_inputs(path, inputs, indices - {None}), failed)


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}_{name}.jsonl")


def _quietly(path: Path) -> Iterator[tuple[Line, Row]]:
    """Its readable rows; `records` reports the others."""
    if path.is_file():
        yield from read_objects(path, None)


def _read_inputs(path: Path, inputs: str | Path | None, bare: Collection[Key | None]) -> PlannedInputs | None:
    """`bare` are the indices of failed attempts without a request."""
    beside = _beside(path, "materialized_inputs")
    if inputs is None and not beside.is_file():
        return None
    file = Path(inputs) if inputs is not None else beside
    found = PlannedInputs()
    for line, row in read_objects(file, Quarantine(file, strict=True)):
        try:
            found.add(row, index_key(row) in bare)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"Line {line.number} of {file} is not a task: {error}.", "Correct it, or name another file with --inputs.") from error  # fmt: skip
    return found
