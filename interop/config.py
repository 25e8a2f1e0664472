"""Settings of `rollhouse import` and `rollhouse export`."""

from typing import Annotated

from pydantic import Field

from ..base.config import Flag, Section


class ImportConfig(Section):
    """What a file's rollouts are imported as."""

    env: Annotated[str | None, Flag("Input", metavar="NAME")] = None
    """Environment of the rollouts. Default: as the rows name it."""
    source_run: Annotated[str | None, Flag("Input", metavar="NAME")] = None
    """Name of the run that the rows come from; rollouts of one name share groups across files."""
    map: Annotated[str | None, Flag("Input", metavar="NAME=COLUMN,…")] = None
    """Columns of a dataset: `messages=conversations,reward=resolved`. Names: messages, prompt, completion, system, tools, reward, truth, group, key, model, step, category."""
    inputs: Annotated[str | None, Flag("Input", metavar="FILE")] = None
    """nemo-gym: file of planned inputs with the ground truths. Default: beside FILE."""
    redact: Annotated[bool, Flag("Input")] = False
    """Replace what looks like a secret (keys, tokens, passwords) before anything is stored."""
    reward_column: Annotated[list[str], Flag("Input", metavar="NAME")] = Field(default_factory=list)
    """Field that is a reward; several are summed. Default: `reward`, `rewards` or `score`, and no other number."""
    max_bad: Annotated[float, Flag("Limits", metavar="X")] = Field(default=0.01, ge=0, le=1)
    """Largest share of bad lines that is still a success."""
    strict: Annotated[bool, Flag("Limits")] = False
    """Stop at the first bad line."""
    run: Annotated[str | None, Flag("Run", metavar="NAME")] = None
    """Name of the import run. Default: a new name."""


class ExportConfig(Section):
    """Which rollouts are exported, and how."""

    run: Annotated[str | None, Flag("Input", metavar="RUN")] = None
    """Export only rollouts of this run."""
    where: Annotated[str | None, Flag("Input", metavar="SQL")] = None
    """Export only rollouts for which this SQL condition is true."""
    at: Annotated[str | None, Flag("Input", metavar="VERSION")] = None
    """Read at a snapshot's name or an ISO time."""
    scorer: Annotated[str | None, Flag("Input", metavar="NAME[@VERSION]")] = None
    """Scorer whose verdicts are written. Default: those of collection time."""
    plain: Annotated[bool, Flag("Output")] = False
    """Leave out keys and columns that only rollhouse reads."""
    card: Annotated[bool, Flag("Output")] = False
    """Write a README.md with the contents beside the file (trl formats)."""
