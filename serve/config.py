"""What `rollhouse serve` takes."""

from typing import Annotated

from pydantic import Field

from ..base.config import FREE, Flag, Flags, RunSettings, Section
from ..policies.config import PolicySettings


class ServedPolicy(PolicySettings):
    """The policy that clients are answered by; how it samples is up to them."""

    engine: str = Field(default=...)
    """Engine: vllm, torch or openai:URL[,URL…]."""
    adapters: Annotated[list[str], Flag("Policy", "adapter", "NAME")] = Field(default_factory=list)
    """Checkpoint of a run with adapters (RUN/step_N), or folder in peft's layout, to serve beside the model under this name. May be repeated; vllm only."""


class ServerSettings(Section):
    """The server, and who may use it."""

    host: Annotated[str, Flag("Server", metavar="HOST")] = "127.0.0.1"
    """Address to listen on. An address that other machines can reach needs an API key."""
    port: Annotated[int, Flag("Server", metavar="N")] = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free port and prints it."""
    served_name: Annotated[str | None, Flag("Server", metavar="NAME")] = None
    """Name of the model for clients. Default: the value of --model, or the endpoint's name."""
    api_key_env: Annotated[str | None, Flag("Server", metavar="VAR")] = None
    """Environment variable with the key that clients must send."""
    api_key: Annotated[str | None, Flag("Server", metavar="KEY")] = Field(default=None, exclude=True, repr=False)
    """The key itself. Other users of this machine can see it on the command line."""
    idle_limit_s: Annotated[float | None, Flag("Server", "idle_limit", "S")] = Field(default=None, gt=0)
    """Seconds without a call that end a rollout as timeout. Default: none."""
    id_fields: Annotated[list[str], Flag("Server", "id_field", "NAME")] = Field(default_factory=list)
    """Header or field of the body (prompt_cache_key, metadata.user_id, …) that names the rollout of calls without an id. May be repeated; the first one found counts."""
    id_per_conversation: Annotated[bool, Flag("Server")] = False
    """Record calls without an id too: a call that continues a recorded conversation belongs to its rollout, any other begins one."""
    lenient: Annotated[bool, Flag("Server")] = False
    """Accept requests with fields that the engine cannot honour, and name them in the rows' gaps, instead of answering 400."""
    require_id: Annotated[bool, Flag("Server")] = False
    """Refuse calls without a rollout id instead of answering them without recording them."""


class ServeConfig(RunSettings):
    """What to serve, to whom, and what to record."""

    policy: Annotated[
        ServedPolicy,
        Flags("engine", "model_name", "adapters", "max_total_sequence_length", "chat", "endpoint", "generation"),
    ]
    environment: Annotated[str, Flag("Input", "env", "NAME")] = "served"
    """Environment of the recorded rollouts."""
    server: Annotated[ServerSettings, FREE] = Field(default_factory=ServerSettings)
