"""The model calls of rollouts that are still open: in memory as differences, on disk as lines, so that a killed server loses none.

One file for each open rollout, in the run's folder of the store's journal: `_journal/<run>/calls/<hash of its id>.jsonl`. Its first line
names the rollout; a line each follows for its calls, and one for how it ended, written before its rows are. When the
writer has the rows, the file is removed. A last line cut short by a kill was never acknowledged, and is dropped.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..policies.types import Sampling
from ..store.ids import hash_id
from ..store.journal import has_journal
from ..store.lance_store import LanceStore
from ..store.messages import Message, VersionSpan

_NOT_STORED = ("shaping", "top_logprobs")


@dataclass(frozen=True)
class Call:
    """One model call, as a difference to the call it continues.

    Attributes:
        number: Its position among the rollout's calls.
        parent: Number of the call whose conversation it continues; None for the beginning of a conversation.
        messages: Messages that the request adds to the parent's conversation; for a beginning, all of them.
        tools: Tools of the request, in order.
        answer: The sampled message.
        added_ids: Tokens between the parent's last one and the first sampled here; the whole prompt for a beginning, and for a call with
            `anew`, whose prompt does not begin with the parent's tokens. None when the engine returns no tokens.
        token_ids: The sampled tokens; None when the engine returns none.
        logprobs: Parallel to token_ids; None when the engine returns none.
        version_spans: Starts are positions in token_ids.
        seconds: Spent waiting for the engine.
        token_identity, logprobs_mode: As in `Conversation`.
        diverged: For a beginning with turns that differ from those recorded, where it leaves the nearest recorded
            conversation: {"call": its last call, "message": messages shared, "token": tokens shared}.
        model: The adapter that answered; None for the model itself.
        gaps: What of the request was dropped, ignored or not read, and what changed the distribution that was sampled from.
    """

    number: int
    parent: int | None
    agent: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    answer: Message
    sampling: Sampling
    max_tokens: int | None
    started_at: datetime
    seconds: float
    added_ids: list[int] | None = None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    version_spans: tuple[VersionSpan, ...] = ()
    stop_reason: str = "stop"
    parse_failures: int = 0
    retries: int = 0
    anew: bool = False
    token_identity: tuple[str | None, str | None] | None = None
    logprobs_mode: str | None = "processed"
    diverged: dict[str, int] | None = None
    completion: bool = False
    gaps: tuple[str, ...] = ()
    model: str | None = None

    def to_json(self, before: "Call | None" = None) -> dict[str, Any]:
        """For a line of the file; the tools are null where they are those of `before`, its parent."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {
            "tools": None if before is not None and before.tools == self.tools else self.tools,
            "messages": [message.to_row() for message in self.messages],
            "answer": self.answer.to_row(),
            # Shaping is in the gaps; its values are not stored.
            "sampling": {name: value for name, value in vars(self.sampling).items() if name not in _NOT_STORED},
            "started_at": self.started_at.isoformat(),
            "version_spans": [[span.start, span.version] for span in self.version_spans],
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any], before: Sequence["Call"] = ()) -> "Call":
        """Reads `to_json`'s form; `before` are the calls of the lines before."""
        tools = plain["tools"]
        read = {
            "messages": tuple(Message.from_row(row) for row in plain["messages"]),
            "answer": Message.from_row(plain["answer"]),
            "tools": before[plain["parent"]].tools if tools is None else tuple(tools),
            "sampling": Sampling(**plain["sampling"]),
            "started_at": datetime.fromisoformat(plain["started_at"]),
            "version_spans": tuple(VersionSpan(*span) for span in plain["version_spans"]),
            "token_identity": plain["token_identity"] and tuple(plain["token_identity"]),
            "gaps": tuple(plain.get("gaps", ())),
        }
        return cls(**{**plain, **read})


@dataclass
class Kept:
    """The content of one open rollout's file. `ending` is None until a request to finish came."""

    name: str
    calls: list[Call] = field(default_factory=list)
    ending: dict[str, Any] | None = None


class CallFiles:
    """The files of one run. A store on an object store has none, since it cannot append: its open calls are in memory only."""

    def __init__(self, store: LanceStore, run_id: str) -> None:
        self.folder = Path(store.uri) / "_journal" / run_id / "calls" if has_journal(store) else None

    def add_call(self, name: str, call: Call, parent: Call | None = None) -> None:
        """Appends a call. Once it returns, a kill of the process cannot lose it. Raises OSError, and the file is then unchanged."""
        self._append(name, {"call": call.to_json(parent)})

    def add_ending(self, name: str, ending: dict[str, Any]) -> None:
        """Appends the end of the rollout."""
        self._append(name, {"ending": ending})

    def remove(self, name: str) -> None:
        """Removes the file of a rollout whose rows are written."""
        if self.folder is None:
            return
        self._path(name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # they still have other files
            for folder in (self.folder, self.folder.parent, self.folder.parent.parent):
                folder.rmdir()

    def read(self) -> Iterator[Kept]:
        """The open rollouts, in the order of their first calls; half-written last lines are cut off."""
        paths = list(self.folder.glob("*.jsonl")) if self.folder is not None else []
        kept = [found for path in paths if (found := _read(path)) is not None]
        yield from sorted(kept, key=lambda rollout: rollout.calls[0].started_at)

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        if self.folder is None:
            return
        path = self._path(name)
        line = _line(entry)
        with _opened(path) as file:
            start = file.tell()
            data = memoryview(line if start else _line({"rollout": name}) + line)
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(start)
                raise

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{hash_id(name)}.jsonl"


def _opened(path: Path) -> io.FileIO:
    """A file to append to. Unbuffered: a write leaves the process at once. For a moment only, since there may be thousands of open rollouts."""
    try:
        return open(path, "ab", buffering=0)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "ab", buffering=0)


def open_rollouts(store: LanceStore, run_id: str, most: int) -> list[Kept]:
    """The open rollouts of a run whose server may be running, those with the newest calls first, at most `most`. Nothing is changed."""
    folder = CallFiles(store, run_id).folder
    found = []
    for path in folder.glob("*.jsonl") if folder is not None else ():
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.append((path.stat().st_mtime, path))
    opened = []
    for _, path in sorted(found, reverse=True)[:most]:
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            kept = _parsed(data[: data.rfind(b"\n") + 1])
            if kept is not None:
                opened.append(kept)
    return opened


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _read(path: Path) -> Kept | None:
    """None when no call of it was acknowledged; the file is then removed."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    kept = _parsed(whole)
    if kept is None:
        path.unlink()
    return kept


def _parsed(whole: bytes) -> Kept | None:
    """The content of whole lines; None when they hold no call."""
    kept: Kept | None = None
    for line in whole.splitlines():
        entry = json.loads(line)
        if "rollout" in entry:
            kept = Kept(entry["rollout"])
        elif kept is not None and "call" in entry:
            kept.calls.append(Call.from_json(entry["call"], kept.calls))
        elif kept is not None:
            kept.ending = entry["ending"]
    return kept if kept is not None and kept.calls else None
