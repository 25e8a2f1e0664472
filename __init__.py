"""rollhouse: a versioned store of agent rollouts, the datasets made from it, and the trainers fed by them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Store, open
    from .base.errors import RollhouseError
    from .environments.prepare import prepare_tasks
    from .environments.workplace.generator.tables import generate_tables
    from .policies.named import endpoint, scripted, torch, vllm
    from .queries.answer import Answer
    from .queries.run_record import RunRecord
    from .store.messages import Message, ToolCall
    from .store.rollout import Rollout
    from .store.task import Prompt, Score, Task
    from .transform.dataset import Dataset

__version__ = "0.1.0"

# Public names and the modules that define them. A module is imported when a name is first used (PEP 562): importing Lance costs half a second,
# and an eager relative import here would break test collection in a checkout.
_PUBLIC = {
    **dict.fromkeys(("Store", "open"), "api"),
    **dict.fromkeys(("endpoint", "scripted", "torch", "vllm"), "policies.named"),
    "RollhouseError": "base.errors",
    "prepare_tasks": "environments.prepare",
    "generate_tables": "environments.workplace.generator.tables",
    "Answer": "queries.answer",
    "RunRecord": "queries.run_record",
    "Rollout": "store.rollout",
    **dict.fromkeys(("Prompt", "Score", "Task"), "store.task"),
    **dict.fromkeys(("Message", "ToolCall"), "store.messages"),
    "Dataset": "transform.dataset",
}

__all__ = [
    "Answer",
    "Dataset",
    "Message",
    "Prompt",
    "RollhouseError",
    "Rollout",
    "RunRecord",
    "Score",
    "Store",
    "Task",
    "ToolCall",
    "endpoint",
    "generate_tables",
    "open",
    "prepare_tasks",
    "scripted",
    "torch",
    "vllm",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(f"rollhouse.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'rollhouse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
