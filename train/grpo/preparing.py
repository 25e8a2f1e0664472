"""A run before anything is started: its prompts, environments and model, and what it is refused for. A dry run ends here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...environments.types import Environment
from ...policies.chat import ChatFormat
from ...policies.models import check_text_model, context_length, weights_hash
from ...store.run_settings import run_payload
from ...transform.materialize import PromptSet, grpo_tasks
from ...transform.versions import get_dataset
from ..checkpoints import finished_before, resolve_model
from .checks import open_environment, refuse_what_cannot_run
from .config import GrpoConfig

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore


@dataclass(frozen=True)
class PreparedRun:
    """What a run starts with.

    Attributes:
        model: Folder of the model it starts from.
        payload: Its configuration as the store keeps it.
        before: The last checkpoint of a finished run of that name; None when it is to be trained.
    """

    tasks: PromptSet
    environment: Environment
    model: Path
    chat: ChatFormat
    payload: dict[str, Any]
    before: dict[str, Any] | None


def prepare_run(store: "LanceStore", config: GrpoConfig) -> PreparedRun:
    """Opens what the configuration names and refuses what cannot run; writes nothing. Raises ConfigError, StoreNotFound, QueryError."""
    dataset = get_dataset(store, config.dataset)
    tasks = grpo_tasks(store, dataset)
    environment = open_environment(config, tasks)
    model = resolve_model(store, config.policy.model_name)
    check_text_model(model)
    payload = run_config(config, dataset.label, weights_hash(model))
    chat = ChatFormat.of(model, config.policy.chat)
    refuse_what_cannot_run(store, config, environment, tasks, chat, context_length(model))
    before = finished_before(store, "grpo", config.run, GrpoConfig, payload)
    return PreparedRun(tasks, environment, model, chat, payload, before)


def run_config(config: GrpoConfig, dataset: str, model_hash: str) -> dict[str, Any]:
    """What a run keeps as its configuration: the settings that differ from the defaults, NAME@VERSION of the dataset, and hashes of files."""
    return run_payload(config.model_copy(update={"dataset": dataset}), model_hash=model_hash)
