"""The configuration of a GRPO run. Key names follow NeMo RL where it has the setting."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from ...base.config import FREE, Flag, Section
from ...environments.config import PlayedEnvironment
from ..config import CheckpointingConfig, TrainingConfig
from .algorithms import ALGORITHMS, with_preset
from .config_algorithm import AlgorithmConfig
from .config_loss import LossConfig
from .config_policy import PolicyConfig


class GrpoEnvironment(PlayedEnvironment):
    """The environments that play the prompts. Default: those of the dataset's tasks."""

    seed: int = 0
    """Seed of the environment's own tasks, those of validation among them."""


class GrpoCheckpointing(CheckpointingConfig):
    """Checkpoints of an online run."""

    save_optimizer: bool = True
    """Keep the optimizer's moments and the states of random generators beside the newest checkpoint, so that a resumed run starts there instead of at step 1."""


class ClusterConfig(Section):
    """The machines."""

    num_nodes: Annotated[int, FREE] = Field(default=1, ge=1)
    """Machines to wait for; more than one needs ray.address."""
    learner_ranks: int = Field(default=1, ge=1)
    """Learner processes, each with a share of weights, gradients and moments (FSDP2); on GPUs each takes one."""
    wait_s: Annotated[float, FREE] = Field(default=300, gt=0)
    """Seconds to wait for the machines."""
    max_restarts: Annotated[int, FREE] = Field(default=3, ge=0)
    """Number of times per run that a failed learner is restarted; its steps are repeated from their stored plans."""
    step_timeout_s: Annotated[float, FREE] = Field(default=1800, gt=0)
    """Seconds after which a call of the learner (opening, a step, a checkpoint) ends the run; opening has at least ten minutes."""
    collective_timeout_s: Annotated[float, FREE] = Field(default=600, gt=0)
    """Seconds that a learner rank waits for another one in an exchange, and for all of them at the start."""


class RayConfig(Section):
    """The Ray cluster."""

    address: str | None = None
    """Address of a running cluster; `auto` is the one of this machine. Default: start a cluster and end it with the run."""


class GrpoConfig(TrainingConfig):
    """The configuration of `train grpo`. A run that exists is resumed where its stored batches end."""

    algorithm: Annotated[str, Flag("Training")] = Field(default="grpo", exclude=True)
    """Preset of settings that are not given: grpo, dr_grpo, dapo, gspo, gdpo, cispo, rloo, reinforce_pp or icepop."""
    policy: PolicyConfig
    grpo: AlgorithmConfig = Field(default_factory=AlgorithmConfig)
    loss_fn: LossConfig = Field(default_factory=LossConfig)
    environment: GrpoEnvironment = Field(default_factory=GrpoEnvironment)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    ray: Annotated[RayConfig, FREE] = Field(default_factory=RayConfig)
    checkpointing: GrpoCheckpointing = Field(default_factory=GrpoCheckpointing)

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        return with_preset(values) if isinstance(values, dict) else values

    @field_validator("algorithm")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ALGORITHMS:
            raise ValueError(f"the known algorithms are {', '.join(ALGORITHMS)}")
        return name
