"""Importing the rollouts that NeMo Gym wrote."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..store.errors import FormatError
from ..store.house import House
from ..store.runs import start_run
from ..store.writer import RolloutWriter
from .lines import Quarantine, read_objects
from .nemo_gym_rows import FORMAT, Source, store_rows, task_fields

_SCORES_AT_ONCE = 2000


@dataclass
class ImportSummary:
    """What an import did.

    Attributes:
        rows: Rows of the file that could be read.
        added: Rollouts that are new in the house.
        present: Rollouts it had already.
        torn: 1 when the last line was not finished: it is left out and can be imported once it is.
        bad: Lines set aside in the file `quarantine` (None when there were none).
        gaps: How many rows did not tell what.
    """

    run_id: str
    file: str
    rows: int = 0
    added: int = 0
    present: int = 0
    torn: int = 0
    bad: int = 0
    quarantine: str | None = None
    gaps: dict[str, int] = field(default_factory=dict)


def import_nemo_gym(
    house: House,
    path: str | Path,
    *,
    environment: str | None = None,
    source_run: str | None = None,
    inputs: str | Path | None = None,
    name: str | None = None,
    max_bad: float = 0.01,
    strict: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> ImportSummary:
    """Brings a file of result rows into the house; what is there already stays as it is.

    Args:
        environment: Name of the environment the rows belong to; None takes it from the rows.
        source_run: Name of the run the rows come from; rows of the same name share groups across files.
        inputs: The materialised inputs, which hold the tasks' truths; None looks for `<stem>_materialized_inputs.jsonl` beside the file.
        name: Name of the import run; None makes one.
        max_bad: Share of bad lines above which FormatError is raised, after the good ones were stored.
        strict: Raise FormatError at the first bad line.
        on_progress: Gets the bytes read so far.
    """
    path = Path(path)
    config = {"format": FORMAT, "file": path.name, "environment": environment, "source_run": source_run}
    with start_run(house, "import", name, config) as run:
        summary = ImportSummary(run.run_id, str(path))
        quarantine = Quarantine(quarantine_path(house, run.run_id), path, strict)
        source = Source(run.run_id, environment, source_run, _read_inputs(path, inputs), _known_tasks(house))
        gaps: Counter[str] = Counter()
        scores: list[dict[str, Any]] = []
        with RolloutWriter(house, run) as writer:
            for line, row in read_objects(path, quarantine, on_progress):
                try:
                    rows = store_rows(row, source)
                    writer.add(rows.rollout, rows.prompt, rows.task, rows.prompt_tokens)
                except ValueError as error:  # BadLine, SchemaMismatch, or text that is not UTF-8
                    quarantine.add(line, str(error))
                    continue
                summary.rows += 1
                gaps.update(rows.rollout["gaps"])
                scores += [rows.score] if rows.score else []
                if len(scores) >= _SCORES_AT_ONCE:
                    writer.flush()
                    _write_scores(house, scores)
            writer.flush()
            _write_scores(house, scores)
        summary.added, summary.present = writer.written, writer.skipped
        summary.torn, summary.bad = quarantine.torn, quarantine.count
        summary.gaps = dict(sorted(gaps.items()))
        summary.quarantine = str(quarantine.path) if quarantine.count else None
        run.finish(asdict(summary))
    _refuse_if_too_bad(summary, max_bad)
    return summary


def quarantine_path(house: House, run_id: str) -> Path:
    """Where an import sets bad lines aside: in a local house's folder, else in the working directory."""
    name = f"{run_id}.jsonl"
    return Path("quarantine") / name if "://" in house.uri else Path(house.uri) / "quarantine" / name


def _refuse_if_too_bad(summary: ImportSummary, max_bad: float) -> None:
    total = summary.rows + summary.bad
    if summary.bad > max_bad * total:
        raise FormatError(
            f"{summary.bad} of {total} lines of {summary.file} are bad, more than --max-bad {max_bad:g} allows.",
            f"The others were imported; {summary.quarantine} names the bad ones and says why.",
        )


def _write_scores(house: House, scores: list[dict[str, Any]]) -> None:
    house.insert_if_absent("scores", scores)
    scores.clear()


def _read_inputs(path: Path, inputs: str | Path | None) -> dict[tuple[Any, Any], dict[str, Any]] | None:
    """Task fields by (task index, rollout index); None when there is no inputs file. Raises FormatError for a bad line in it."""
    beside = path.with_name(f"{path.stem}_materialized_inputs.jsonl")
    if inputs is None and not beside.is_file():
        return None
    file = Path(inputs) if inputs is not None else beside
    rows = read_objects(file, Quarantine(file, file, strict=True))
    return {(row.get("_ng_task_index"), row.get("_ng_rollout_index")): task_fields(row) for _, row in rows}


def _known_tasks(house: House) -> dict[tuple[str, str], set[str]]:
    known: dict[tuple[str, str], set[str]] = {}
    columns = ["task_id", "environment", "prompt_id"]
    for row in house.read("tasks", columns=columns, filter="ground_truth is not null").to_pylist():
        known.setdefault((row["environment"], row["prompt_id"]), set()).add(row["task_id"])
    return known
