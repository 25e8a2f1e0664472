"""The options of `rollhouse eval env` and `rollhouse eval bfcl`."""

from typing import Annotated, Literal

from pydantic import Field

from ..base.config import Flag, RunSettings
from ..collect.config import Concurrency, Limits
from ..environments.config import EnvironmentSettings
from ..policies.config import GenerationSettings, PolicySettings, SamplingSettings
from ..policies.types import Sampling


class HeldOutEnvironment(EnvironmentSettings):
    """The environment, by default its validation tasks."""

    split: str = "validation"


class EvaluationSampling(SamplingSettings):
    """Sampling whose temperature follows from the mode."""

    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # type: ignore[assignment]
    """Sampling temperature. Default: 0 in mode greedy, 1 in mode sampled."""


class EvaluatedPolicy(PolicySettings):
    """A policy with the sampling settings of its evaluation."""

    generation: EvaluationSampling = Field(default_factory=EvaluationSampling)


class EvaluationConfig(RunSettings):
    """An evaluation on an environment."""

    environment: HeldOutEnvironment = Field(default_factory=HeldOutEnvironment)
    mode: Annotated[Literal["greedy", "sampled"], Flag("Sampling", metavar="MODE")] = "greedy"
    """greedy (temperature 0, one rollout per task) or sampled."""
    num_repeats: Annotated[int, Flag("Input", metavar="N")] = Field(default=1, ge=1)
    """Rollouts per task; more than one needs mode sampled."""
    seed: Annotated[int, Flag("Input", metavar="N")] = 0
    """Seed for task generation, the scripted engine's mistakes and sampling."""
    policy: EvaluatedPolicy = Field(default_factory=EvaluatedPolicy)
    limits: Limits = Field(default_factory=Limits)

    def sampling(self) -> Sampling:
        """The settings as policies take them."""
        generation = self.policy.generation
        default = 0.0 if self.mode == "greedy" else 1.0
        temperature = default if generation.temperature is None else generation.temperature
        return Sampling(
            temperature, generation.top_p, generation.top_k, generation.min_p, generation.max_new_tokens, self.seed
        )


class BenchmarkedPolicy(PolicySettings):
    """A policy that answers greedily."""

    engine: str = "vllm"
    generation: GenerationSettings = Field(default_factory=GenerationSettings)


class CasesInFlight(Concurrency):
    """Number of cases in flight."""

    concurrency: int = Field(default=32, ge=1)
    """Cases in flight."""


class BfclConfig(RunSettings):
    """An evaluation on the Berkeley Function-Calling Leaderboard."""

    categories: Annotated[list[str], Flag("Input", "category", "NAME")] = Field(default_factory=lambda: ["single_turn"])
    """Category or group (non_live, live, single_turn, multi_turn, memory, all); may be repeated."""
    limit: Annotated[int | None, Flag("Input", metavar="N")] = Field(default=None, ge=1)
    """Use N cases per category, always the same ones. Default: all."""
    mode: Annotated[Literal["fc", "prompt"], Flag("Input", metavar="MODE")] = "fc"
    """fc: functions are passed as tools; prompt: the system prompt describes them, and calls are read from the text."""
    policy: BenchmarkedPolicy = Field(default_factory=BenchmarkedPolicy)
    limits: CasesInFlight = Field(default_factory=CasesInFlight)
