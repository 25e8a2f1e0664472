"""What `rollhouse collect` takes: one model for flags, recipe and overrides."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..base.errors import ConfigError
from ..environments.mixture import EnvironmentSpec
from ..environments.registry import environment_hash
from ..environments.task_files import tasks_sha256
from ..policies.chat_options import ChatOptions
from ..policies.endpoint import EndpointSettings
from ..policies.opening import model_hash
from ..policies.types import Sampling


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class ChatSection(_Section):
    """How messages become tokens, where the model's own folder does not settle it; see `ChatOptions`."""

    template: str | None = None
    """Jinja file used in place of the model's own chat template."""
    enable_thinking: bool | None = None
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    tool_parser: str = ChatOptions.tool_parser

    def options(self) -> ChatOptions:
        """As `open_policy` takes them."""
        return ChatOptions(**self.model_dump())


class EndpointSection(_Section):
    """How endpoints are asked; see `EndpointSettings`."""

    concurrency: int = EndpointSettings.concurrency
    timeout_s: float = EndpointSettings.timeout_s
    max_retries: int = EndpointSettings.max_retries
    backoff_s: float = EndpointSettings.backoff_s
    backoff_max_s: float = EndpointSettings.backoff_max_s
    breaker_failures: int = EndpointSettings.breaker_failures
    breaker_pause_s: float = EndpointSettings.breaker_pause_s
    gone_after_s: float = EndpointSettings.gone_after_s
    tokens: Annotated[Literal["auto", "off", "require"], BeforeValidator(_off)] = EndpointSettings.tokens
    extra_body: dict[str, Any] = Field(default_factory=dict)

    def settings(self) -> EndpointSettings:
        """As `open_policy` takes them. Raises ConfigError for a value out of range."""
        return EndpointSettings(**self.model_dump())


class CollectConfig(_Section):
    """What to collect, and how."""

    environment: str | None = None
    """One environment by name, with `tables`, `tasks` and `tasks_split` as in `load_environment`; or `environments`."""
    tables: str | None = None
    tasks: str | None = None
    tasks_split: str | None = None
    environments: list[EnvironmentSpec] = Field(default_factory=list)
    """Several by weight, each with its own options and reward shaping."""
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)
    """The first so many tasks; null takes all."""
    num_repeats: int = Field(default=1, ge=1)
    """Rollouts of each task."""
    seed: int | None = None
    """Of generated tasks, of the script's mistakes and of sampling; null lets the engine choose."""

    engine: str = "scripted"
    """scripted, vllm, torch or openai:URL."""
    model: str | None = None
    """A model folder, or the name an endpoint serves."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Null is the model's own limit, at most 4096."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    data_parallel_size: int = Field(default=1, ge=1)
    chat: ChatSection = ChatSection()
    endpoint: EndpointSection = EndpointSection()
    mistake_rate: float = Field(default=0.0, ge=0, le=1)
    """Of the scripted policy."""

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=-1, ge=-1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    max_tokens: int = Field(default=256, ge=1)
    """Limit on sampled tokens a model call."""
    max_turns: int = Field(default=6, ge=1)
    """Limit on model calls a rollout."""

    concurrency: int = Field(default=64, ge=1)
    """Rollouts in flight, over all workers."""
    time_limit_s: float = Field(default=600.0, gt=0)
    """Wall clock of one rollout."""
    tool_time_limit_s: float | None = Field(default=None, gt=0)
    """Wall clock of one tool call; null is no limit."""
    token_budget: int | None = Field(default=None, ge=1)
    """No rollout is begun once the run has sampled so many tokens; null is no limit."""
    workers: str | None = Field(default=None, pattern=r"^ray(:[1-9][0-9]*)?$")
    """`ray` or `ray:N`: rollouts are spread over N worker processes of a Ray cluster; null plays them in this process."""

    run: str | None = None
    """The run's name; one that exists is resumed."""
    retry_failed: bool = False
    """Try again where an earlier attempt failed."""
    snapshot: str | None = None
    """Name of a snapshot to take afterwards."""

    def specs(self) -> list[EnvironmentSpec]:
        """The environments, however they were named. Raises ConfigError when they were named both ways, or not at all."""
        single = (self.environment, self.tables, self.tasks, self.tasks_split)
        if self.environments and any(single):
            raise ConfigError(
                "The environments are named twice: under `environments` and by --env, --tables, --tasks or --tasks-split.",
                "Keep one of the two; an entry of `environments` takes tables, tasks and tasks_split too.",
            )
        if self.environments:
            return self.environments
        if self.environment is None:
            raise ConfigError("There is no environment to collect on.", "Name one with --env, or under `environments`.")
        return [
            EnvironmentSpec(name=self.environment, tables=self.tables, tasks=self.tasks, tasks_split=self.tasks_split)
        ]

    def sampling(self) -> Sampling:
        """The settings every rollout is sampled with; the seed is the run's."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p, self.max_tokens, self.seed)

    def identity(self) -> dict[str, Any]:
        """What a run is started with: all that decides what is collected, models and files by their content.

        Where it runs and how long it may take is left out, so a run may go on with more workers or a bigger budget. So is what later
        versions added and is at its default, so that they go on with a run of an earlier one.
        """
        names = ("environment", "engine", "tables", "tasks", "split", "model", "num_repeats", "limit", "seed", "temperature", "top_p",
                 "max_tokens", "max_turns", "mistake_rate", "max_model_len", "tasks_split")  # fmt: skip
        specs = self.specs()
        added = {
            "top_k": None if self.top_k == -1 else self.top_k,
            "min_p": self.min_p or None,
            "chat": self.chat.options().config() or None,
            "endpoint": self._endpoint_identity() or None,
            "environment_sha256": environment_hash(self.environment) if self.environment else None,
            "environments": {str(i): _spec_identity(spec) for i, spec in enumerate(self.environments)} or None,
        }
        return {
            **{name: getattr(self, name) for name in names},
            "model_hash": model_hash(self.engine, self.model),
            "tasks_sha256": None if self.environments else _tasks_hash(specs[0].tasks),
            **{name: value for name, value in added.items() if value is not None},
        }

    def _endpoint_identity(self) -> dict[str, Any]:
        given = {"tokens": self.endpoint.tokens, "extra_body": self.endpoint.extra_body}
        return {
            name: value
            for name, value in given.items()
            if value != EndpointSection.model_fields[name].get_default(call_default_factory=True)
        }


def _spec_identity(spec: EnvironmentSpec) -> dict[str, Any]:
    hashes = {"tasks_sha256": _tasks_hash(spec.tasks), "environment_sha256": environment_hash(spec.name)}
    return {**spec.model_dump(mode="json"), **{name: value for name, value in hashes.items() if value is not None}}


def _tasks_hash(tasks: str | None) -> str | None:
    """Of the content; None for a folder, which only an environment of one's own takes."""
    return None if tasks is None or Path(tasks).is_dir() else tasks_sha256(tasks)
