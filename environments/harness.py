"""Settings of the section `harness`: the program that plays an environment's tasks in place of the agent loop."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..base.config import FREE, Content, Flag, Section
from ..base.errors import ConfigError
from ..base.packages import require
from ..base.plugins import parse_plugin, plugin_hash

SHIPPED = {
    "openai-agents": "openai_agents",
    "langgraph": "langgraph",
    "pydantic-ai": "pydantic_ai",
    "smolagents": "smolagents",
    "mini-swe-agent": "mini_swe_agent",
    "nemo-gym": "nemo_gym",
    "verifiers": "verifiers",
}
"""Name → module in the folder `harness/agents`, whose function `run` plays a task."""
OWN = {"verifiers": "env_id"}
"""Environments that are programs, `NAME:PLACE`: the harness NAME plays their tasks and gets PLACE as this option, beside the environment's options."""


class HarnessSettings(Section):
    """The program that plays the tasks. Default: the agent loop of rollhouse, over the environment's session."""

    name: Annotated[str | None, Flag("Input", "harness", "NAME"), Content(plugin_hash)] = None
    """Harness that plays the tasks: FILE.py:FUNCTION, module:FUNCTION, openai-agents, langgraph, pydantic-ai, smolagents, mini-swe-agent or nemo-gym. Default: the built-in agent loop."""
    command: list[str] = Field(default_factory=list)
    """Command line of a program that plays one task, instead of a name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of the function."""
    runs_in: Literal["process", "thread", "container"] = "process"
    """process (killed with all that it started), thread (of the run's process; cheaper, and its time limit ends only Python code) or container."""
    image: str | None = None
    """Image of the container, for Docker or Podman."""
    reward: Literal["auto", "exit", "environment"] = "auto"
    """auto: what the harness returns, writes or posts, else the environment's verdict; exit: 1 for exit code 0 of a command, else 0; environment: the environment's verdict."""
    max_calls: int = Field(default=200, ge=1)
    """Limit of model calls per rollout."""
    token_budget: int | None = Field(default=None, ge=1)
    """Limit of sampled tokens per rollout. Default: none beside the context length of each call."""
    calls_at_once: Annotated[int, FREE] = Field(default=16, ge=1)
    """Model calls of one rollout in flight; further ones wait."""
    port: Annotated[int, FREE] = Field(default=0, ge=0, le=65535)
    """Port of the run's engine on 127.0.0.1, for programs whose model address is fixed before the run; 0 takes a free one."""
    key_env: Annotated[str | None, FREE] = None
    """Environment variable with a key that is good for all rollouts, for such programs; their calls name the rollout in `metadata.rollout_id`."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Further environment variables of the program."""

    @property
    def chosen(self) -> bool:
        """Whether a harness plays the tasks."""
        return self.name is not None or bool(self.command)

    @property
    def label(self) -> str:
        """What rows and messages call it."""
        return self.name or " ".join(self.command)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name is not None and self.command:
            raise ValueError("a harness has a name or a command, not both")
        if self.name is not None and self.name not in SHIPPED and parse_plugin(self.name) is None:
            raise ValueError(f"there is no harness {self.name!r}: write FILE.py:FUNCTION or module:FUNCTION, or one of {', '.join(SHIPPED)}")  # fmt: skip
        if (self.image is not None) != (self.runs_in == "container"):
            raise ValueError("a container needs an image, and an image runs_in=container")
        if self.command and self.runs_in == "thread":
            raise ValueError("a command runs in a process or a container, not in a thread")
        if self.name is not None and self.runs_in == "container":
            raise ValueError("a container runs a command: name one that the image holds")
        if self.reward == "exit" and not self.command:
            raise ValueError("reward=exit is for a command")
        return self


def with_own_harness(environment: str, options: Mapping[str, Any], harness: HarnessSettings) -> HarnessSettings:
    """The harness of an environment: the one that plays such environments (OWN), with the settings given, or the one given. Raises ValueError for another one."""
    kind, _, place = environment.partition(":")
    if kind not in OWN:
        return harness
    if harness.command or harness.name not in (None, kind):
        raise ValueError(f"{environment} plays its own tasks: leave the harness {harness.label!r} out")
    if harness.reward != "auto":
        raise ValueError(f"{environment} judges its own tasks: leave harness.reward out")
    given = {OWN[kind]: place, **options, **harness.options}
    return HarnessSettings(**{**harness.model_dump(), "name": kind, "options": given})


def refuse_unplayable(harnesses: Iterable[HarnessSettings], engine: str, workers: str | None = None) -> None:
    """Raises ConfigError for a harness with the scripted engine or Ray workers or whose file is not there, and MissingExtra without aiohttp.

    Nothing is imported: it is called before an engine starts.
    """
    chosen = [harness for harness in harnesses if harness.chosen]
    if not chosen:
        return
    for harness in chosen:
        parsed = None if harness.name is None else parse_plugin(harness.name)
        if parsed is not None and parsed.file is not None and not parsed.file.is_file():
            raise ConfigError(f"There is no harness file {parsed.file}.", "Check the path.")
    require("aiohttp")
    if engine == "scripted":
        raise ConfigError("A harness needs a model, and the scripted engine has none.", "Use --engine vllm, torch or openai:URL.")  # fmt: skip
    if workers is not None:
        raise ConfigError("A harness is not spread over Ray workers.", "Leave --workers out.")
