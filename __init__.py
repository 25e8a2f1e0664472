"""rollhouse: a versioned store of agent rollouts, the datasets made from it, and the trainers fed by them."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public names and where they live. Nothing is imported until a name is asked for (PEP 562): importing Lance alone
# costs half a second, and an eager relative import here would break test collection in a checkout.
_PUBLIC = {
    "SqlStore": "rollhouse.queries.sql_store",
    "RollhouseError": "rollhouse.base.errors",
    "Rollout": "rollhouse.store.rollout",
    "Prompt": "rollhouse.store.task",
    "Task": "rollhouse.store.task",
    "Score": "rollhouse.store.task",
    "Message": "rollhouse.store.messages",
    "ToolCall": "rollhouse.store.messages",
}

__all__ = ["Message", "Prompt", "RollhouseError", "Rollout", "Score", "SqlStore", "Task", "ToolCall", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'rollhouse' has no attribute {name!r}")
