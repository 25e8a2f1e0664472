"""Settings of the section `policy`, which every command that opens or trains a model has."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from ..base.config import FREE, Content, Flag, Section, file_hash
from ..base.plugins import parse_plugin, plugin_hash
from .types import Sampling

_SETTLED = {"model", "max_model_len", "seed", "logprobs_mode", "async_scheduling", "skip_tokenizer_init", "worker_extension_cls"}  # fmt: skip


def _parser_hash(name: str) -> str | None:
    """Hash of a plug-in's file, with its name unless that is `parse`; None for a built-in parser. Raises OSError."""
    plugin = parse_plugin(name)
    if plugin is None:
        return None
    digest = plugin_hash(name) if plugin.file is None else file_hash(str(plugin.file))
    return digest if plugin.name == "parse" else f"{digest}:{plugin.name}"


class ChatOptions(Section):
    """How messages become tokens, where the model's folder does not settle it. Nothing in the folder is edited."""

    model_config = ConfigDict(frozen=True)

    template: Annotated[str | None, Flag("Policy", "chat_template", "FILE"), FREE, Content()] = None
    """Jinja file used instead of the model's chat template."""
    enable_thinking: Annotated[bool | None, Flag("Policy")] = None
    """Value of the chat template's setting enable_thinking. Default: the template's own."""
    template_kwargs: Mapping[str, Any] = Field(default_factory=dict)
    """Further settings of the chat template, by its own names."""
    tool_parser: Annotated[str, Flag("Policy", metavar="NAME"), Content(_parser_hash, alone=True)] = "auto"
    """Parser of tool calls: a built-in one (auto chooses the one that reads the template's own calls), one of vLLM's, or FILE.py:name."""

    def template_settings(self) -> dict[str, Any]:
        """What the template is rendered with besides messages and tools."""
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {**self.template_kwargs, **thinking}


class VllmArguments(Section):
    """Engine arguments of vLLM by vLLM's names; beside those below, any other (`dtype`, `quantization`, …)."""

    model_config = ConfigDict(extra="allow")

    tensor_parallel_size: Annotated[int, Flag("Policy", metavar="N"), FREE] = Field(default=1, ge=1)
    """GPUs that each copy of the model is split over (vllm)."""
    data_parallel_size: Annotated[int, Flag("Policy", metavar="N"), FREE] = Field(default=1, ge=1)
    """Copies of the model (vllm)."""
    gpu_memory_utilization: Annotated[float | None, FREE] = Field(default=None, gt=0, le=1)
    """Share of a GPU's memory that the engine takes. Default: vLLM's."""

    @property
    def arguments(self) -> dict[str, Any]:
        """As `open_vllm` takes them."""
        return self.model_dump(exclude_none=True)

    def model_post_init(self, _: Any) -> None:
        """Raises ValueError for an argument that other settings decide."""
        settled = sorted(_SETTLED & set(self.model_extra or {}))
        if settled:
            raise ValueError(f"{settled[0]} follows from the other settings and cannot be set here")


class EngineSettings(Section):
    """The engine's own arguments."""

    vllm: VllmArguments = Field(default_factory=VllmArguments)


class GenerationSettings(EngineSettings):
    """How much a policy generates."""

    max_new_tokens: Annotated[int, Flag("Sampling", metavar="N")] = Field(default=256, ge=1)
    """Limit of sampled tokens per model call."""


class SamplingSettings(GenerationSettings):
    """How a policy samples."""

    temperature: Annotated[float, Flag("Sampling", metavar="T")] = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Flag("Sampling", metavar="P")] = Field(default=1.0, gt=0, le=1)
    """Probability mass that nucleus sampling keeps; 1 is off."""
    top_k: int = Field(default=-1, ge=-1)
    """Number of tokens that sampling is restricted to; -1 is off."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Least probability of a token relative to the likeliest; 0 is off."""

    def sampling(self, seed: int | None) -> Sampling:
        """As policies take it."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p, self.max_new_tokens, seed)


def _off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class EndpointSettings(Section):
    """How requests are sent to OpenAI-compatible endpoints."""

    model_config = ConfigDict(frozen=True)

    concurrency: Annotated[int, FREE] = Field(default=1024, ge=1)
    """Requests in flight at one endpoint; further ones wait."""
    timeout_s: Annotated[float, FREE] = Field(default=300.0, gt=0)
    """Seconds from sending a request to the last byte of its answer."""
    max_retries: Annotated[int, Flag("Limits", metavar="N"), FREE] = Field(default=5, ge=0)
    """Times a request to an endpoint is sent again after 429, 5xx, a timeout, a broken connection or an invalid answer."""
    backoff_s: Annotated[float, FREE] = Field(default=0.5, gt=0)
    """Seconds before the first retry, doubled for each further one; a random part up to half is left out. Retry-After holds back every request."""
    backoff_max_s: Annotated[float, FREE] = Field(default=30.0, gt=0)
    """Longest pause before a retry in seconds."""
    breaker_failures: Annotated[int, FREE] = Field(default=10, ge=1)
    """Failures in a row after which an endpoint gets no requests for breaker_pause_s."""
    breaker_pause_s: Annotated[float, FREE] = Field(default=5.0, gt=0)
    """Seconds until one request tests whether the endpoint is back."""
    gone_after_s: Annotated[float, FREE] = Field(default=300.0, gt=0)
    """Seconds that every endpoint is out of order before the run ends."""
    tokens: Annotated[Literal["auto", "off", "require"], BeforeValidator(_off)] = "auto"
    """`auto`: request token ids and logprobs from vLLM and rollhouse servers, and take those that others send; `require`: refuse an answer
    without them; `off`: neither."""
    extra_body: Mapping[str, Any] = Field(default_factory=dict)
    """Further fields of every request, such as `{"chat_template_kwargs": {"enable_thinking": false}}`."""


class ModelSettings(Section):
    """A model, and how conversations become its tokens."""

    model_name: Annotated[str | None, Flag("Policy", "model", "MODEL")] = None
    """Checkpoint id, run, model folder or hub name; for an endpoint the name of the model that it serves."""
    max_total_sequence_length: Annotated[int | None, Flag("Policy", "max_model_len", "N")] = Field(default=None, ge=1)
    """Context length in tokens. Default: the model's limit; on vLLM as much of it as the cache of keys and values holds."""
    chat: ChatOptions = Field(default_factory=ChatOptions)


class EngineChoice(Section):
    """What computes a policy's answers."""

    engine: Annotated[str, Flag("Policy", metavar="ENGINE"), Content(plugin_hash)] = "scripted"
    """Engine: scripted, vllm, torch, openai:URL[,URL…] or FILE.py:CLASS."""


class PolicySettings(ModelSettings, EngineChoice):
    """A policy that is opened by the name of its engine."""

    mistake_rate: Annotated[float, Flag("Policy", metavar="P")] = Field(default=0.0, ge=0, le=1)
    """Probability that the scripted engine stops before its last call."""
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    generation: EngineSettings = Field(default_factory=EngineSettings)


class SamplingPolicy(PolicySettings):
    """A policy with the sampling settings of its rollouts."""

    generation: SamplingSettings = Field(default_factory=SamplingSettings)
