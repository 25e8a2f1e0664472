"""Worker processes: a call that hangs, crashes or eats memory ends alone."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rollhouse.base.worker_pool import WorkerPool
from rollhouse.base.worker_process import WorkerDied, WorkerError, WorkerTimeout, WorkerUnavailable

HERE = "rollhouse.tests.base.worker_functions:"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Short of time, and of memory; calls that should succeed take none."""
    pool = WorkerPool(2, 1.5, memory_mb=600, modules=["rollhouse.tests.base.worker_functions"])
    yield pool
    pool.close()


def is_alive(pid: int) -> bool:
    """Whether any thread of it is; the last one to go closes its pipes."""
    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return is_alive(pid)
    return any(stat.rpartition(")")[2].split()[0] not in "ZX" for stat in tasks)


def wait_until_dead(pid: int) -> None:
    for _ in range(600):
        if not is_alive(pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} lives")


def test_a_worker_is_used_again_and_what_it_prints_does_no_harm(pool: WorkerPool) -> None:
    first, pid = pool.call_sync(HERE + "count")
    assert pool.call_sync(HERE + "talk", 3) == "xxx"
    assert pool.call_sync(HERE + "count") == [first + 1, pid]
    assert pid != os.getpid()


def test_what_goes_wrong_ends_alone(pool: WorkerPool) -> None:
    async def all_at_once() -> list:
        calls = [
            pool.call(HERE + "stuck_in_native_code"),
            pool.call(HERE + "die"),
            pool.call(HERE + "eat", 2000),
            pool.call(HERE + "refuse", "not\nthis"),
            pool.call(HERE + "talk", 2 << 20),
            *[pool.call(HERE + "add", number, 1) for number in range(50)],
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    stuck, dead, eaten, refused, long, *sums = asyncio.run(all_at_once())
    assert type(stuck) is WorkerTimeout
    assert type(dead) is WorkerDied
    assert type(eaten) is WorkerDied
    assert type(refused) is WorkerError
    assert "ValueError: not this" in str(refused)
    assert "OverflowError" in str(long)
    assert sums == list(range(1, 51))


@pytest.mark.system
def test_slow_calls_make_room_for_others() -> None:
    pool = WorkerPool(1, 30, modules=["rollhouse.tests.base.worker_functions"])

    async def order() -> list[str]:
        ended: list[str] = []

        async def call(name: str, function: str, *args: object) -> None:
            await pool.call(HERE + function, *args)
            ended.append(name)

        slow = [call("slow", "sleep", 3.0 + number) for number in range(3)]  # the last begins again
        await asyncio.gather(*slow, *[call("quick", "add", 1, 1) for _ in range(3)])
        return ended

    assert asyncio.run(order()) == ["quick"] * 3 + ["slow"] * 3
    pool.close()


@pytest.mark.system
def test_abandoned_slow_calls_give_their_places_back() -> None:
    pool = WorkerPool(1, 3, modules=["rollhouse.tests.base.worker_functions"])
    pool.call_sync(HERE + "add", 1, 1)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*[pool.call(HERE + "sleep", 0.7) for _ in range(3)]), 0.1)

    asyncio.run(give_up())
    assert [pool.call_sync(HERE + "sleep", 0.7) for _ in range(3)] == ["slept"] * 3
    pool.close()


def test_a_worker_killed_while_idle_costs_no_call(pool: WorkerPool) -> None:
    _, pid = pool.call_sync(HERE + "count")
    os.kill(pid, signal.SIGKILL)
    wait_until_dead(pid)
    assert [pool.call_sync(HERE + "add", 1, 1) for _ in range(3)] == [2, 2, 2]


def test_an_abandoned_call_leaves_its_worker_in_order(pool: WorkerPool) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.call(HERE + "sleep", 0.4), 0.05)

    asyncio.run(give_up())
    assert [pool.call_sync(HERE + "add", 2, number) for number in range(4)] == [2, 3, 4, 5]


def test_no_secret_of_ours_is_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    pool = WorkerPool(1, 5)
    assert "secret" not in str(pool.call_sync(HERE + "environment"))
    pool.close()
    with pytest.raises(WorkerUnavailable, match="closed"):
        pool.call_sync(HERE + "add", 1, 1)


def test_a_missing_module_is_reported() -> None:
    pool = WorkerPool(1, 5, modules=["no_such_module"])
    with pytest.raises(WorkerUnavailable, match="no_such_module"):
        pool.call_sync(HERE + "add", 1, 1)
    pool.close()


def test_workers_end_with_a_killed_parent() -> None:
    script = f"""
import threading, time
from rollhouse.base.worker_pool import WorkerPool
pool = WorkerPool(2, 60)
print(pool.call_sync("{HERE}count")[1], flush=True)
threading.Thread(target=pool.call_sync, args=("{HERE}sleep", 59.0), daemon=True).start()
while pool._idle.qsize(): time.sleep(0.01)
print("busy", flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert parent.stdout.readline() == "busy\n"
    assert is_alive(worker)
    parent.kill()
    parent.communicate()
    wait_until_dead(worker)
