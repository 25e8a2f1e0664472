"""The formats by name: how each reads one record, writes one record, and writes a file."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from ..base.plugins import FORMS, load_plugin, parse_plugin
from ..store.rollout import Rollout
from . import (  # fmt: skip
    atif,
    claude_code,
    codex,
    columns,
    dataset_files,
    finetuning,
    inspect_log,
    inspect_out,
    langfuse,
    langsmith,
    nemo_gym_files,
    nemo_gym_out,
    nemo_gym_rows,
    openai_chat,
    otel,
    otel_out,
    pairs,
    parquet,
    parquet_files,
    prime_rl,
    sharegpt,
    signs,
    slime,
    tau2,
    trackio,
    trl,
    verifiers,
    verifiers_v0,
    verl,
)
from .lines import Line, Quarantine, read_objects
from .rollout import FileRollout, Row, from_rollout
from .sample import FileSample
from .storing import Source

Progress = Callable[[int], None] | None


def no_columns(rollout: FileRollout) -> set[str]:
    """For a format that holds messages alone, or has no export."""
    return set()


@dataclass(frozen=True)
class FileFormat:
    """One format.

    Attributes:
        read: The rollouts of one record; raises LookupError, TypeError, ValueError or AttributeError for a record that is not of the format.
            None where there is no import.
        write: Writes a file of episodes (lists of rollouts); True as the third leaves out keys and columns of ours. None where there is no export.
        held: The columns that an export has a place for beside the messages (rollout.unheld).
        record: The record of one episode's rollouts without keys of ours; what a source's record says beyond it goes to `extra`. None where
            `read` keeps the rest itself.
        carries: Whether the other columns travel under a key of ours.
        records: How a file is split into records.
        companion: What `read` needs of the files beside the file, given the path and the --inputs option.
        wanted: What an export shall give back for a record, where that is not the record itself: of what `record` gave, and the record.
        unfit: Why an export has to leave a rollout out; None when it need not.
        drops: What of a rollout's messages an export has no place for, beside the columns that are not `held`.
        chooses_reward: Whether `--reward-column` names fields of its records.
        signs: By what a file's beginning is told to have this format; None when it has not. `detect` takes the first format that has a reason.
    """

    read: Callable[[Row, Source], list[FileRollout]] | None
    write: Callable[[Iterable[list[FileRollout]], Path, bool], None] | None
    held: Callable[[FileRollout], set[str]] = no_columns
    record: Callable[[list[FileRollout]], Row] | None = None
    carries: bool = False
    records: Callable[[Path, Quarantine, Progress], Iterator[tuple[Line, Row]]] = read_objects
    companion: Callable[[Path, Any], Any] | None = None
    wanted: Callable[[Row, Row], Row] | None = None
    unfit: Callable[[FileRollout], str | None] | None = None
    drops: Callable[[FileRollout], list[str]] | None = None
    signs: Callable[[FileSample], str | None] | None = None
    chooses_reward: bool = False


FORMATS: dict[str, FileFormat] = {
    "nemo-gym": FileFormat(
        nemo_gym_rows.read,
        nemo_gym_out.write,
        nemo_gym_out.held,
        nemo_gym_out.record,
        carries=True,
        records=nemo_gym_files.records,
        companion=nemo_gym_files.companion,
        wanted=nemo_gym_out.todays_shape,
        signs=signs.keys("responses_create_params"),
    ),
    "prime-rl": FileFormat(prime_rl.read, None, records=prime_rl.records, signs=prime_rl.signs),
    "verifiers": FileFormat(
        verifiers.read, verifiers.write, verifiers.held, verifiers.record, carries=True, signs=signs.verifiers
    ),
    "verifiers-v0": FileFormat(
        verifiers_v0.read,
        None,
        companion=verifiers_v0.companion,
        signs=signs.keys("example_id", "prompt", "completion"),
    ),
    "atif": FileFormat(
        atif.read,
        atif.write,
        atif.held,
        atif.record,
        carries=True,
        records=atif.records,
        wanted=atif.wanted,
        signs=signs.atif,
    ),
    "claude-code": FileFormat(claude_code.read, None, records=claude_code.records, signs=claude_code.signs),
    "codex": FileFormat(codex.read, None, records=codex.records, signs=codex.signs),
    "inspect": FileFormat(
        inspect_log.read,
        inspect_out.write,
        inspect_log.held,
        carries=True,
        records=inspect_log.records,
        signs=inspect_log.signs,
    ),
    "slime": FileFormat(slime.read, None, records=slime.records, signs=slime.signs, chooses_reward=True),
    "otel": FileFormat(
        otel.read, otel_out.write, otel.held, carries=True, records=otel.records, signs=otel.signs, chooses_reward=True
    ),
    "langfuse": FileFormat(langfuse.read, None, records=langfuse.records, signs=langfuse.signs, chooses_reward=True),
    "langsmith": FileFormat(
        langsmith.read, None, records=langsmith.records, signs=langsmith.signs, chooses_reward=True
    ),
    "tau2": FileFormat(tau2.read, None, records=tau2.records, signs=tau2.signs),
    "pairs": FileFormat(pairs.read, None, records=pairs.records, signs=pairs.signs, chooses_reward=True),
    "trackio": FileFormat(trackio.read, None, records=trackio.records, signs=trackio.signs, chooses_reward=True),
    "verl": FileFormat(verl.read, None, records=verl.records, signs=verl.signs),
    "verl-prompt": FileFormat(None, verl.write_prompts, verl.prompt_held, unfit=verl.unfit, drops=verl.drops),
    "parquet": FileFormat(
        parquet.read, parquet.write, parquet.held, records=parquet_files.read_parquet, signs=signs.parquet
    ),
    "columns": FileFormat(columns.read, None, records=dataset_files.records, signs=columns.signs, chooses_reward=True),
    "sharegpt": FileFormat(
        columns.read,
        sharegpt.write,
        records=dataset_files.records,
        unfit=sharegpt.unfit,
        drops=sharegpt.drops,
        chooses_reward=True,
    ),
    "trl": FileFormat(
        trl.read,
        trl.writer("trl"),
        trl.held,
        records=trl.records,
        unfit=trl.unfit,
        signs=signs.keys("prompt", "completion"),
        chooses_reward=True,
    ),
    "trl-messages": FileFormat(
        trl.read, trl.writer("trl-messages"), trl.held, records=trl.records, unfit=trl.unfit, chooses_reward=True
    ),
    "trl-kto": FileFormat(
        trl.read, trl.writer("trl-kto"), trl.held, records=trl.records, unfit=trl.unfit_for_kto, chooses_reward=True
    ),
    "trl-prompt": FileFormat(None, trl.writer("trl-prompt"), trl.prompt_held, unfit=trl.unfit_prompt, drops=verl.drops),
    "openai-finetuning": FileFormat(None, finetuning.write, unfit=finetuning.unfit, drops=finetuning.drops),
    "openai-chat": FileFormat(
        openai_chat.read, openai_chat.write, record=openai_chat.record, signs=signs.openai_chat, chooses_reward=True
    ),
}
IMPORTS = tuple(name for name, format in FORMATS.items() if format.read)
EXPORTS = tuple(name for name, format in FORMATS.items() if format.write)


def format_named(name: str, names: tuple[str, ...]) -> FileFormat:
    """The format of that name, or of a plug-in.

    A plug-in, `module:name` or `FILE.py:name`, is a `FileFormat`, or for an import a function that takes the JSON object of one line and returns a
    `Rollout` or a list of them.

    Raises ConfigError for a name that is not among `names`, and for a plug-in that is neither.
    """
    direction = "import" if names is IMPORTS else "export"
    if name in names:
        return FORMATS[name]
    if parse_plugin(name) is None:
        raise ConfigError(
            f"There is no {direction} format {name!r}.", f"Formats are {', '.join(names)}, or a plug-in: {FORMS}."
        )
    found: Any = load_plugin(name, f"{direction} format")
    if direction == "import" and callable(found):
        function: Any = found
        return FileFormat(partial(_read_by, function), None, lambda rollout: set())
    if isinstance(found, FileFormat) and (found.read if direction == "import" else found.write) is not None:
        return found
    raise ConfigError(
        f"{name} is not an {direction} format.",
        "Name a function of one line's JSON object that returns rollouts." if direction == "import" else "Name a FileFormat that writes.",
    )  # fmt: skip


def _read_by(function: Callable[[Row], Rollout | list[Rollout]], record: Row, source: Source) -> list[FileRollout]:
    """What a user's function makes of one line, as the readers here return it. Raises TypeError when it returns something else."""
    made = function(record)
    listed = made if isinstance(made, list) else [made]
    wrong = next((one for one in listed if not isinstance(one, Rollout)), None)
    if wrong is not None:
        raise TypeError(f"{source.format} returned a {type(wrong).__name__}, not a Rollout")
    return [from_rollout(rollout) for rollout in listed]
