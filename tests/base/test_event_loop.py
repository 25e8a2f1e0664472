"""Calls that wait for coroutines work with and without a running event loop."""

import asyncio
import contextvars
import signal
import threading

import pytest
from rollhouse.base.event_loop import run_blocking


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


async def fail() -> None:
    raise ValueError("no")


def test_it_returns_and_raises_with_and_without_a_loop() -> None:
    name = contextvars.ContextVar("name", default="")

    async def reported() -> str:
        return name.get()

    async def inside() -> tuple[int, str]:
        name.set("notebook")
        with pytest.raises(ValueError, match="no"):
            run_blocking(fail())
        return run_blocking(add(1, 2)), run_blocking(reported())

    assert run_blocking(add(1, 2)) == 3
    with pytest.raises(ValueError, match="no"):
        run_blocking(fail())
    assert asyncio.run(inside()) == (3, "notebook")


def test_ctrl_c_under_a_loop_ends_the_work_after_its_clean_up() -> None:
    cleaned: list[bool] = []

    async def work() -> None:
        main = threading.main_thread().ident
        assert main is not None
        # To the main thread, as a terminal's: one that another thread raises for itself does not wake it.
        threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    async def inside() -> None:
        before = signal.signal(signal.SIGINT, press)  # as in a notebook's kernel while a cell runs
        try:
            with pytest.raises(KeyboardInterrupt):
                run_blocking(work())
        finally:
            signal.signal(signal.SIGINT, before)

    asyncio.run(inside())
    assert cleaned == [True]
