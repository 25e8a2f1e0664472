"""Sessions leave nothing behind."""

import asyncio
import gc
import json
import tracemalloc
import weakref
from typing import Any

from rollhouse.environments.tasks_file import task_from_row
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace import environment as environment_module
from rollhouse.environments.workplace.tables import OfficeTable
from rollhouse.policies.types import Turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.tests.office import task_line

SEND = ToolCall("c", "email_send_email", json.dumps({"recipient": "a@b.c", "subject": "s", "body": "b" * 2000}))
SEARCH = ToolCall("d", "calendar_search_events", json.dumps({"query": "walk"}))
TURN = Turn(Message("assistant", tool_calls=(SEND, SEARCH)))


def play(environment: WorkplaceEnvironment, sessions: int) -> None:
    task = task_from_row(task_line(0, "Write", [(SEND.name, json.loads(SEND.arguments))]), "workplace")

    async def go() -> None:
        for _ in range(sessions):
            session = environment.start(task)
            await session.step(TURN)
            session.verify()
            session.close()

    asyncio.run(go())


def test_memory_is_flat_over_sessions(environment: WorkplaceEnvironment) -> None:
    play(environment, 50)
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        play(environment, 600)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # One session's body alone is 2,000 characters.
    assert grown < 100_000


def written_tables() -> list[OfficeTable]:
    return [table for table in gc.get_objects() if isinstance(table, OfficeTable) and table.created]


def test_a_closed_session_holds_no_tables(environment: WorkplaceEnvironment) -> None:
    before = {id(table) for table in written_tables()}
    session = environment.start(task_from_row(task_line(0, "Write", []), "workplace"))
    asyncio.run(session.step(TURN))
    written = [weakref.ref(table) for table in written_tables() if id(table) not in before]
    assert len(written) == 1
    session.close()
    gc.collect()
    assert written[0]() is None


def test_only_so_many_truths_are_kept(environment: WorkplaceEnvironment, monkeypatch: Any) -> None:
    monkeypatch.setattr(environment_module, "_TRUTHS_KEPT", 3)
    fresh = WorkplaceEnvironment.__new__(WorkplaceEnvironment)
    fresh.__dict__.update(environment.__dict__, _truths={})
    for number in range(10):
        task = task_from_row(
            task_line(number, "Write", [("email_delete_email", {"email_id": str(number)})]), "workplace"
        )
        assert fresh.score(task, []).passed
    assert len(fresh._truths) == 3
