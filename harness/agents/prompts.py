"""A task's prompt in the parts that frameworks ask for."""

from ...store.task import Task


def instructions_of(task: Task) -> str | None:
    """The system messages; None without any."""
    texts = [message.text or "" for message in task.messages if message.role in ("system", "developer")]
    return "\n\n".join(texts) or None


def request_of(task: Task) -> str:
    """The user's messages."""
    return "\n\n".join(message.text or "" for message in task.messages if message.role == "user")
