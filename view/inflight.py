"""Rollouts that a server has open: model calls in its journal, before there is a row."""

from dataclasses import asdict
from typing import Any

from ..serve.calls import Call, Kept, open_rollouts
from ..store.journal import open_calls
from .reader import Reader

LISTED = 100


def in_flight(reader: Reader, run_id: str) -> dict[str, Any]:
    """total, and rows (newest call first, at most LISTED): name, agent, calls, started_at, last_at, tokens (sampled; None without any), messages so far.

    Empty for a store that was opened in the past, and on an object store, where calls are only in the server's memory.
    """
    if reader.store.at is not None:
        return {"total": 0, "rows": []}
    rows = [_row(kept) for kept in open_rollouts(reader.store, run_id, LISTED)]
    return {"total": max(len(rows), open_calls(reader.store).get(run_id, 0)), "rows": rows}


def _row(kept: Kept) -> dict[str, Any]:
    last = kept.calls[-1]
    sampled = [len(call.token_ids) for call in kept.calls if call.token_ids is not None]
    return {
        "name": kept.name,
        "agent": last.agent,
        "calls": len(kept.calls),
        "started_at": min(call.started_at for call in kept.calls).isoformat(),
        "last_at": max(call.started_at for call in kept.calls).isoformat(),
        "tokens": sum(sampled) if sampled else None,
        "messages": _conversation(kept.calls, last),
    }


def _conversation(calls: list[Call], last: Call) -> list[dict[str, Any]]:
    """The messages of the conversation that the call belongs to, its answer at the end."""
    by_number = {call.number: call for call in calls}
    path: list[Call] = []
    call: Call | None = last
    while call is not None:
        path.append(call)
        call = by_number.get(call.parent) if call.parent is not None else None
    messages = [message for call in reversed(path) for message in (*call.messages, call.answer)]
    return [{**asdict(message), "tool_calls": [asdict(one) for one in message.tool_calls]} for message in messages]
