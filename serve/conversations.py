"""Rollouts of calls that name none: one for each conversation that begins."""

import uuid
from collections.abc import Mapping

from .history import OpenRollout, conversation_keys
from .request import ModelRequest

_PREFIX = "conversation-"


class Conversations:
    """Finds the rollout whose conversation a call continues.

    Several rollouts may hold the same conversation, as samples of one task at temperature 0 do: each is continued once before any is continued again.
    """

    def __init__(self, open: Mapping[str, OpenRollout]) -> None:
        """`open` are the open rollouts by id; those of an earlier server's conversations are continued."""
        self._open = open
        self._waiting: dict[str, list[str]] = {}
        self._latest: dict[str, str] = {}
        self._noted: dict[str, int] = {}
        for name in open:
            self.answered(name)

    def rollout_of(self, parsed: ModelRequest, agent: str, model: str | None = None) -> str:
        """The id of the call's rollout: a new one for a conversation that none begins with."""
        keys = list(conversation_keys(agent, parsed.tools, parsed.messages, model=model))
        for key in reversed(keys[1:]):
            waiting = self._waiting.get(key, [])
            while waiting:
                name = waiting.pop(0)
                if name in self._open:
                    return name
            self._waiting.pop(key, None)
            latest = self._latest.get(key)
            if latest is not None:
                if latest in self._open:
                    return latest
                del self._latest[key]
        return f"{_PREFIX}{uuid.uuid4().hex}"

    def answered(self, name: str) -> None:
        """After a call of a rollout was recorded."""
        rollout = self._open.get(name)
        if rollout is None or not name.startswith(_PREFIX):
            return
        ends = list(rollout.ends())
        for key in ends[self._noted.get(name, 0) :]:
            self._waiting.setdefault(key, []).append(name)
            self._latest[key] = name
        self._noted[name] = len(ends)
        if len(self._noted) > 2 * len(self._open) + 1000:
            self._forget()

    def _forget(self) -> None:
        """Drops what is known of rollouts that have ended."""
        self._noted = {name: count for name, count in self._noted.items() if name in self._open}
        self._latest = {key: name for key, name in self._latest.items() if name in self._open}
        waiting = {key: [name for name in names if name in self._open] for key, names in self._waiting.items()}
        self._waiting = {key: names for key, names in waiting.items() if names}
