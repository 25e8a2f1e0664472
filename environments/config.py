"""Settings of the section `environment`, which every command that plays tasks has."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from ..base.config import Content, Flag, Section
from ..base.errors import ConfigError
from ..base.plugins import plugin_hash
from .harness import HarnessSettings, with_own_harness
from .rubric import RubricSettings
from .shaping import RewardShaping


def environment_hash(name: str) -> str | None:
    """SHA-256 of the file of a user's environment; None for other environments and a missing file."""
    from .registry import is_user_environment

    return plugin_hash(name) if is_user_environment(name) else None


def _tasks_hash(tasks: str) -> str | None:
    """SHA-256 of the content of a tasks file or a data set of the hub; None for a folder, which only a user's own environment takes."""
    from pathlib import Path

    from .task_files import tasks_sha256

    return None if Path(tasks).is_dir() else tasks_sha256(tasks)


class EnvironmentSource(Section):
    """An environment and where its tasks come from."""

    name: Annotated[str | None, Flag("Input", "env", "NAME"), Content(environment_hash)] = None
    """Environment: workplace, workplace-mini, math, python-sandbox, FILE.py:CLASS, nemo-gym:URL, verifiers:NAME, harbor:FOLDER or mcp:COMMAND_OR_URL."""
    tables: Annotated[str | None, Flag("Input", metavar="FOLDER")] = None
    """Folder of the environment's tables."""
    tasks: Annotated[str | None, Flag("Input", metavar="FILE"), Content(_tasks_hash)] = None
    """Tasks file: JSON lines, Parquet or hf:OWNER/NAME. Default: the environment generates its tasks."""
    tasks_split: Annotated[str | None, Flag("Input", metavar="SPLIT")] = None
    """Split of those rows of the tasks file that name none. Default: train."""


class TasksConfig(EnvironmentSource):
    """Tasks that an environment generates, or that it reads from a file."""

    name: str = Field(default=...)
    splits: Annotated[list[str], Flag("Input", "split", "SPLIT")] = Field(
        default_factory=lambda: ["train", "validation"]
    )
    """Split: train, validation or test; may be repeated. Default: train and validation."""
    seed: Annotated[int, Flag("Input", metavar="N")] = 0
    """Seed of the generator."""
    count: Annotated[int | None, Flag("Input", metavar="N")] = Field(default=None, ge=1)
    """Tasks per split; at most N for an environment without a generator. Default: all."""


class EpisodeLimits(Section):
    """Limits of the rollouts of one environment of a mixture. Default: those of the command."""

    model_config = ConfigDict(frozen=True)

    max_turns: int | None = Field(default=None, ge=1)
    """Limit of model calls per rollout."""
    time_limit_s: float | None = Field(default=None, gt=0)
    """Seconds per rollout."""
    tool_time_limit_s: float | None = Field(default=None, gt=0)
    """Seconds per tool call."""


class EnvironmentSpec(EnvironmentSource):
    """One entry of `environment.mixture`."""

    name: str = Field(default=...)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Share of the tasks relative to the other entries."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the environment's constructor."""
    limits: EpisodeLimits = Field(default_factory=EpisodeLimits)
    reward: RewardShaping = Field(default_factory=RewardShaping)
    rubric: RubricSettings | None = None
    """Criteria that a judge grades beside the environment's verifier. Default: none."""
    harness: HarnessSettings = Field(default_factory=HarnessSettings)

    @model_validator(mode="after")
    def _plays_itself(self) -> Self:
        self.harness = with_own_harness(self.name, self.options, self.harness)
        return self


OF_ONE = ("name", "tables", "tasks", "tasks_split", "options", "reward", "rubric", "harness")
"""Settings of one environment, which an entry of a mixture has too."""


class PlayedEnvironment(EnvironmentSource):
    """The environment that is played: one by `name`, or several by `mixture`."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the environment's constructor."""
    reward: RewardShaping = Field(default_factory=RewardShaping)
    rubric: RubricSettings | None = None
    """Criteria that a judge grades beside the environment's verifier. Default: none."""
    harness: HarnessSettings = Field(default_factory=HarnessSettings)
    mixture: list[EnvironmentSpec] = Field(default_factory=list)
    """Several environments instead of one, interleaved by weight."""
    max_turns: Annotated[int, Flag("Limits", metavar="N")] = Field(default=6, ge=1)
    """Limit of model calls per rollout."""

    def specs(self) -> list[EnvironmentSpec]:
        """The environments, however they are named. Raises ConfigError when both ways are used, or none."""
        if self.mixture and any(getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True) for name in OF_ONE):  # fmt: skip
            raise ConfigError(
                f"environment.mixture and another setting of one environment ({', '.join(OF_ONE)}) are both set.",
                "Remove one of them; an entry of environment.mixture takes all of these settings too.",
            )
        if self.mixture:
            return self.mixture
        if self.name is None:
            raise ConfigError("No environment is named.", "Name one with --env, or several under environment.mixture.")
        return [EnvironmentSpec(**{name: getattr(self, name) for name in OF_ONE})]

    def fewest_turns(self) -> int:
        """The lowest limit of model calls that any rollout has."""
        return min([self.max_turns, *(spec.limits.max_turns or self.max_turns for spec in self.mixture)])

    def longest_s(self, time_limit_s: float) -> float:
        """The highest time limit that any rollout has, in seconds; `time_limit_s` is the command's."""
        return max([time_limit_s, *(spec.limits.time_limit_s or time_limit_s for spec in self.mixture)])


class EnvironmentSettings(PlayedEnvironment):
    """The environment that is played, and which of its tasks."""

    split: Annotated[str, Flag("Input", metavar="SPLIT")] = "train"
    """Split of the tasks: train, validation or test."""
    limit: Annotated[int | None, Flag("Input", metavar="N")] = Field(default=None, ge=1)
    """Use the first N tasks of the split. Default: all."""
