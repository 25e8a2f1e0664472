"""Importing a file of any format: read record by record, bad ones set aside, rows written in batches."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, FormatError, RollhouseError, SchemaMismatch, one_line
from ..store.lance_store import LanceStore
from ..store.rollout import Rollout
from ..store.runs import Run, start_run
from ..store.writer import RolloutWriter
from .config import ImportConfig
from .detect import Found, detect
from .formats import FORMATS, IMPORTS, FileFormat, format_named
from .lines import BadLine, Line, Quarantine
from .places import is_hub
from .redact import Redactor
from .rollout import Row
from .storing import Source, to_store

_RECORDS_AT_ONCE, _CHARACTERS_AT_ONCE = 64, 8 << 20

_PYTHON_WORDS = re.compile(r"object|indices|operand|unhashable|argument")


@dataclass
class ImportSummary:
    """What an import did.

    Attributes:
        rows: Records of the file that could be read; one may hold several rollouts.
        added: Rollouts that are new in the store.
        present: Rollouts it had already.
        torn: 1 when the last line was not finished: it is left out and can be imported once it is.
        bad: Lines set aside in the file `quarantine` (None when there were none).
        gaps: How many rollouts have each gap.
        format: Its format, found out where none was named.
        redacted: How many secrets were replaced, by kind; empty without `redact`.
        counts: What the format counts, such as how many rows of nemo-gym were joined with their input, and how.
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
    counts: dict[str, int] = field(default_factory=dict)
    format: str = ""
    redacted: dict[str, int] = field(default_factory=dict)


def found_format(path: str | Path, config: ImportConfig) -> Found:
    """The format of a file that is to be imported. Raises FormatError when it is not known."""
    return detect(Path(path), config.map is not None)


def import_file(
    store: LanceStore,
    format_name: str,
    path: str | Path,
    *,
    environment: str | None = None,
    source_run: str | None = None,
    inputs: str | Path | None = None,
    name: str | None = None,
    max_bad: float = 0.01,
    strict: bool = False,
    reward_columns: Sequence[str] = (),
    on_progress: Callable[[int], None] | None = None,
) -> ImportSummary:
    """`run_import` with the settings as keywords: `environment` is `env`, `name` is `run`, `reward_columns` are `reward_column`."""
    inputs = None if inputs is None else str(inputs)
    config = ImportConfig(
        env=environment,
        source_run=source_run,
        inputs=inputs,
        run=name,
        max_bad=max_bad,
        strict=strict,
        reward_column=list(reward_columns),
    )
    return run_import(store, format_name, path, config, on_progress)


def _companion(format: FileFormat, path: Path, inputs: str | Path | None) -> Any:
    if format.companion is None:
        return None
    try:
        return format.companion(path, inputs)
    except (RollhouseError, MemoryError):
        raise
    except Exception as error:
        raise FormatError(f"A file beside {path} cannot be read: {one_line(error)}.", "Correct it, or remove it.") from error  # fmt: skip


def run_import(
    store: LanceStore,
    format_name: str | None,
    path: str | Path,
    config: ImportConfig,
    on_progress: Callable[[int], None] | None = None,
) -> ImportSummary:
    """Brings a file's rollouts into the store; what is there already stays as it is.

    Args:
        format_name: A name in `formats.IMPORTS`, or a plug-in; None finds it out from the file.
        path: A file, a folder, or `hf:OWNER/NAME`.
        on_progress: Gets the bytes read so far.

    Raises FormatError when no format fits, at the first bad line when `config.strict`, and when more lines than `config.max_bad` are bad,
    after the good ones were stored.
    """
    path = Path(path)
    format_name = format_name or found_format(path, config).format
    format = format_named(format_name, IMPORTS)
    _refuse_unused(config, format_name, format)
    if not is_hub(path) and not path.exists():
        raise FormatError(f"There is no file {path}.", "Check the path.")
    companion = _companion(format, path, config.inputs)
    told = {"format": format_name, "file": path.name, "environment": config.env, "source_run": config.source_run}
    told |= {"reward_columns": config.reward_column} if config.reward_column else {}
    with start_run(store, "import", config.run, told) as run:
        summary = ImportSummary(run.run_id, str(path), format=format_name)
        redactor = Redactor() if config.redact else None
        quarantine = Quarantine(quarantine_path(store, run.run_id), config.strict, redactor.text if redactor else None)
        source = Source(
            format_name,
            run.run_id,
            config.env,
            config.source_run,
            _known_tasks(store),
            map=config.map,
            companion=companion,
            reward_columns=tuple(config.reward_column),
        )
        _bring_in(store, run, format, path, source, quarantine, redactor, summary, on_progress)
        summary.torn, summary.bad = quarantine.torn, quarantine.count
        summary.quarantine = str(quarantine.path) if quarantine.count else None
        summary.redacted = {kind: count for kind, count in (redactor.found if redactor else {}).items() if count}
        run.finish(asdict(summary))
    _refuse_if_too_bad(summary, config.max_bad)
    return summary


def _refuse_unused(config: ImportConfig, name: str, format: FileFormat) -> None:
    """Raises ConfigError for an option that the format would not follow."""
    wrong = {
        "--reward-column": bool(config.reward_column) and name in FORMATS and not format.chooses_reward,
        "--map": config.map is not None and name in FORMATS and name not in ("columns", "sharegpt"),
        "--inputs": config.inputs is not None and name in FORMATS and name != "nemo-gym",
    }
    for option, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError(f"{option} has no meaning for {name}.", "Leave it out, or name the format columns, which reads any record.")  # fmt: skip


def _bring_in(
    store: LanceStore, run: Run, format: FileFormat, path: Path, source: Source, quarantine: Quarantine, redactor: Redactor | None,
    summary: ImportSummary, on_progress: Callable[[int], None] | None,
) -> None:  # fmt: skip
    # By bytes and at the end, so that a slow machine makes no more commits: an import that is killed is repeated.
    with RolloutWriter(store, run, max_age_s=math.inf, journal=False) as writer:
        taking = _Taking(writer, quarantine, summary)
        try:
            for line, record in _records(format, path, quarantine, on_progress):
                try:
                    found = rollouts_of(_redacted(record, redactor), format, source)
                except BadLine as error:
                    quarantine.add(line, one_line(error))
                    continue
                if line.replaced:
                    for rollout in found:
                        rollout.gaps = sorted({*(rollout.gaps or ()), "surrogates_replaced"})
                taking.add(line, found)
        finally:
            taking.flush()
        writer.flush()
    summary.added, summary.present = writer.written, writer.skipped
    summary.gaps = dict(sorted(taking.gaps.items()))
    summary.counts = dict(sorted((source.counts + quarantine.passed_over).items()))


def _records(
    format: FileFormat, path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None
) -> Iterator[tuple[Line, Row]]:
    """The records of a file. Raises FormatError where the format's reader fails on the file itself."""
    try:
        yield from format.records(path, quarantine, on_progress)
    except (RollhouseError, OSError, MemoryError):
        raise
    except Exception as error:
        raise FormatError(
            f"{path} cannot be read any further: {one_line(error)}.",
            "What was read before is stored. Check the file and the format's name.",
        ) from error


def _redacted(record: Row, redactor: Any) -> Row:
    try:
        return redactor.value(record) if redactor else record
    except RecursionError as error:
        raise BadLine("it is nested too deep") from error


class _Taking:
    """Gives the writer the rollouts of some records at once, which costs a third of one record after another.

    Attributes:
        gaps: How many rollouts have each gap.
    """

    def __init__(self, writer: RolloutWriter, quarantine: Quarantine, summary: ImportSummary) -> None:
        self._writer, self._quarantine, self._summary = writer, quarantine, summary
        self._waiting: list[tuple[Line, list[Rollout]]] = []
        self._size = 0
        self.gaps: Counter[str] = Counter()

    def add(self, line: Line, rollouts: list[Rollout]) -> None:
        """Takes the rollouts of one record. A record that does not fit the store is set aside."""
        self._waiting.append((line, rollouts))
        self._size += len(line.text)
        if len(self._waiting) >= _RECORDS_AT_ONCE or self._size >= _CHARACTERS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Gives the writer what waits."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        try:
            self._writer.add_many([rollout for _, rollouts in waiting for rollout in rollouts])
        except SchemaMismatch:  # of one of them; the writer took none. Errors of the store end the import
            waiting = [(line, rollouts) for line, rollouts in waiting if self._takes(line, rollouts)]
        self._summary.rows += len(waiting)
        for _, rollouts in waiting:
            for rollout in rollouts:
                self.gaps.update(rollout.gaps or ())

    def _takes(self, line: Line, rollouts: list[Rollout]) -> bool:
        try:
            self._writer.add_many(rollouts)
        except SchemaMismatch as error:
            self._quarantine.add(line, one_line(error))
            return False
        return True


def rollouts_of(record: Row, format: FileFormat, source: Source) -> list[Rollout]:
    """The rollouts of one record. Raises BadLine saying what is wrong with it."""
    if format.read is None:
        raise TypeError(f"{source.format} is not read")
    try:
        return to_store(format.read(record, source), record, source, format.record, format.wanted)
    except KeyError as error:
        raise BadLine(f"{error.args[0]!r} is missing") from error
    except (AttributeError, TypeError) as error:
        # Python's own message does not name what is wrong with the record.
        said = str(error)
        wrong = f"a value in it has another type than {source.format} has there"
        raise BadLine(wrong if isinstance(error, AttributeError) or _PYTHON_WORDS.search(said) else said) from error
    except MemoryError:
        raise
    except Exception as error:  # a record may hold anything, and a plug-in may raise anything
        raise BadLine(str(error) or type(error).__name__) from error


def quarantine_path(store: LanceStore, run_id: str) -> Path:
    """Where an import sets bad lines aside: in a local store's folder, else in the working directory."""
    name = f"{run_id}.jsonl"
    return Path("quarantine") / name if "://" in store.uri else Path(store.uri) / "quarantine" / name


def _refuse_if_too_bad(summary: ImportSummary, max_bad: float) -> None:
    total = summary.rows + summary.bad
    if summary.bad > max_bad * total:
        raise FormatError(
            f"{summary.bad} of {total} lines of {summary.file} are bad, more than --max-bad {max_bad:g} allows.",
            f"The others were imported; {summary.quarantine} names the bad ones and says why.",
        )


def _known_tasks(store: LanceStore) -> dict[tuple[str, str], set[str]]:
    known: dict[tuple[str, str], set[str]] = {}
    columns = ["task_id", "environment", "prompt_id"]
    for row in store.read("tasks", columns=columns, filter="ground_truth is not null").to_pylist():
        known.setdefault((row["environment"], row["prompt_id"]), set()).add(row["task_id"])
    return known
