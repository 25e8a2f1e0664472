"""The way from the event loop to the writer: batches, and a writer that is behind holds the rollouts back."""

import asyncio
import threading
from typing import Any

import pytest
from rollhouse.collect.episode import Slot, play_episode
from rollhouse.collect.feed import Entry, Feed
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter

OFFICE = MiniEnvironment(seed=0, n_train=1)


def test_a_writer_that_is_behind_holds_rollouts_back_and_loses_none(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LanceStore.create(tmp_path / "store")
    go_on, batches, written = threading.Event(), [], []
    add_many = RolloutWriter.add_many

    def slowly(self: RolloutWriter, rollouts: Any) -> int:
        batches.append(len(rollouts))
        assert go_on.wait(60)
        return add_many(self, rollouts)

    monkeypatch.setattr(RolloutWriter, "add_many", slowly)
    (task,) = OFFICE.tasks("train")

    async def feed_it(writer: RolloutWriter) -> int:
        feed = Feed(writer, lambda entry: written.append(entry.slot.sample_index))
        pump = asyncio.create_task(feed.pump())
        handed = 0

        async def put_all() -> None:
            nonlocal handed
            for i in range(20_000):
                slot = Slot("r", None, task, task.task_id, task.prompt_id, i)
                if i == 0:
                    first = await play_episode(OFFICE, ScriptedPolicy(), slot, Sampling())
                rollout = first.rollout.changed(rollout_id=slot.rollout_id, sample_index=i)
                await feed.put(Entry(slot, rollout))
                handed += 1

        putting = asyncio.create_task(put_all())
        await asyncio.sleep(0.5)
        held = handed
        go_on.set()
        await putting
        feed.close()
        await pump
        feed.end(writer.close)
        return held

    with start_run(store, "collect", "r") as run:
        held = asyncio.run(feed_it(RolloutWriter(store, run)))
    assert 256 < held < 10_000, "held back while the writer waited"
    assert written == list(range(20_000)) and store.read("rollouts", ["rollout_id"]).num_rows == 20_000
    assert len(batches) < 20_000 / 100, "many at once"
    assert store.read("tasks").num_rows == store.read("prompts").num_rows == 1
