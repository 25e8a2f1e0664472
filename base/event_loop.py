"""Runs a coroutine for a caller that is not one, whether or not an event loop is running (in a notebook one is)."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_blocking(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine; raises what it raises.

    Under a running event loop the coroutine runs in a thread with a loop of its own while the caller waits. Ctrl-C cancels it, and
    KeyboardInterrupt is raised after its clean-up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    return _run_in_thread(coroutine)


def _run_in_thread(coroutine: Coroutine[Any, Any, Result]) -> Result:
    outcome: Future[Result] = Future()
    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Result]]] = Future()

    async def main() -> Result:
        task = asyncio.ensure_future(coroutine)
        running.set_result((asyncio.get_running_loop(), task))
        return await task

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:
            outcome.set_exception(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="rollhouse-event-loop")
    thread.start()
    try:
        wait([outcome])  # not `thread.join`: interrupted once, it takes the thread for ended
    except KeyboardInterrupt:
        loop, task = running.result()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(task.cancel)
        wait([outcome])
        raise
    return outcome.result()
