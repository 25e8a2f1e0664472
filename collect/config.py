"""What `rollhouse collect` takes: one model for flags, recipe, overrides and keywords."""

from typing import Annotated

from pydantic import Field

from ..base.config import FREE, Flag, RunSettings, Section
from ..environments.config import EnvironmentSettings
from ..environments.rubric import RubricSettings
from ..policies.config import SamplingPolicy


class Concurrency(Section):
    """How much is done at once."""

    concurrency: Annotated[int, Flag("Limits", metavar="N"), FREE] = Field(default=64, ge=1)
    """Rollouts in flight, over all workers."""


class Limits(Concurrency):
    """How much is done at once, and how long one rollout may take."""

    time_limit_s: Annotated[float, Flag("Limits", "time_limit", "S"), FREE] = Field(default=600.0, gt=0)
    """Seconds per rollout; a rollout that takes longer gets the status timeout."""
    tool_time_limit_s: Annotated[float | None, Flag("Limits", "tool_time_limit", "S"), FREE] = Field(default=None, gt=0)
    """Seconds per tool call. Default: no limit."""


class CollectLimits(Limits):
    """The limits of a collection."""

    token_budget: Annotated[int | None, Flag("Limits", metavar="N"), FREE] = Field(default=None, ge=1)
    """Stop starting rollouts after N sampled tokens. Default: no limit."""


class CollectConfig(RunSettings):
    """What to collect, and how."""

    environment: EnvironmentSettings = Field(default_factory=EnvironmentSettings)
    num_repeats: Annotated[int, Flag("Input", metavar="N")] = Field(default=1, ge=1)
    """Rollouts per task."""
    seed: Annotated[int | None, Flag("Input", metavar="N")] = None
    """Seed for task generation, the scripted engine's mistakes and sampling. Default: chosen by the engine."""
    policy: SamplingPolicy = Field(default_factory=SamplingPolicy)
    limits: CollectLimits = Field(default_factory=CollectLimits)
    workers: Annotated[str | None, Flag("Limits", metavar="ray[:N]"), FREE] = Field(
        default=None, pattern=r"^ray(:[1-9][0-9]*)?$"
    )
    """Spread rollouts over N worker processes of a Ray cluster. Default: one process."""
    retry_failed: Annotated[bool, Flag("Run"), FREE] = False
    """Start a new attempt where the last one failed."""
    snapshot: Annotated[str | None, Flag("Run", metavar="NAME"), FREE] = None
    """Take a snapshot with this name at the end."""


class RescoreConfig(RunSettings):
    """What to score again, and by what."""

    scorer: Annotated[str, Flag("Input", metavar="NAME")]
    """Scorer: an environment (workplace, workplace-mini, …), workplace-lenient, math-strict, rubric, rubric-group, FILE.py:NAME or module:NAME."""
    tables: Annotated[str | None, Flag("Input", metavar="FOLDER")] = None
    """Folder of the environment's tables."""
    rubric: RubricSettings | None = None
    """Criteria and judge of the scorers rubric and rubric-group. Default: none."""
    of_run: Annotated[str | None, Flag("Input", metavar="RUN")] = None
    """Score only the rollouts of this run."""
    workers: Annotated[int | None, Flag("Limits", metavar="N"), FREE] = Field(default=None, ge=1)
    """Worker processes. Default: up to one per core."""
