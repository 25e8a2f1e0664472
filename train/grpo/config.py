"""The configuration of a GRPO run. Key names follow NeMo RL where it has the setting."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...base.config import Content, Section
from ...environments.config import environment_hash
from ..config import CheckpointingConfig, LoggerConfig
from .config_algorithm import AlgorithmConfig
from .config_loss import LossConfig
from .config_policy import PolicyConfig


class EnvironmentConfig(Section):
    """Where the tasks are played."""

    name: Annotated[str | None, Content(environment_hash)] = None
    """What `--env` of collect takes (a file of one's own, …); None is the name of the dataset's tasks."""
    tables: Path | None = None
    """Folder of the environment's tables, where it needs one."""
    tasks: Path | None = None
    """File with its tasks, where it needs one."""
    tasks_split: str | None = None
    """Split of the tasks file's rows that name none; None is train."""
    seed: int = 0
    max_turns: int = Field(default=6, ge=1)
    """Model calls an episode."""


class GrpoCheckpointing(CheckpointingConfig):
    """Checkpoints of an online run."""

    save_optimizer: bool = True
    """Keep the optimizer's moments and the generators' states beside the newest checkpoint: a run that goes on starts there instead of at step 1."""


class ClusterConfig(Section):
    """The machines."""

    num_nodes: int = Field(default=1, ge=1)
    """Machines the run waits for; more than one wants ray.address."""
    learner_ranks: int = Field(default=1, ge=1)
    """Learner processes that hold a share of weights, gradients and moments each (FSDP2); one GPU each on a GPU."""
    wait_s: float = Field(default=300, gt=0)
    """How long it waits for the machines."""
    max_restarts: int = Field(default=3, ge=0)
    """A learner that dies is started again so often in a run, and its steps are taken again from their stored plans."""
    step_timeout_s: float = Field(default=1800, gt=0)
    """A call of the learner (opening, a step, a checkpoint) that takes longer ends the run; opening has ten minutes at least."""
    collective_timeout_s: float = Field(default=600, gt=0)
    """How long a learner rank waits for another in an exchange, and for all of them to be there when they start."""


class RayConfig(Section):
    """The Ray cluster."""

    address: str | None = None
    """Of a cluster that runs already (`auto` finds the one of this machine); None starts one, and ends it."""


class GrpoConfig(Section):
    """Everything a GRPO run depends on."""

    run: str | None = None
    """Name of the run; a run of that name goes on where its stored batches end."""
    dataset: str
    """The prompt set: NAME, or NAME@VERSION."""
    policy: PolicyConfig
    grpo: AlgorithmConfig = Field(default_factory=AlgorithmConfig)
    loss_fn: LossConfig = Field(default_factory=LossConfig)
    environment: EnvironmentConfig = Field(default_factory=EnvironmentConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    ray: RayConfig = Field(default_factory=RayConfig)
    checkpointing: GrpoCheckpointing = Field(default_factory=GrpoCheckpointing)
    logger: LoggerConfig = Field(default_factory=LoggerConfig)
