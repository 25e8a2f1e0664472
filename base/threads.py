"""User code beside the event loop, so that slow or endless code never blocks it: sync functions in threads, async ones on a second loop."""

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

# A loop that does not run a callback for this long is blocked.
_HELD_S = 1.0


class _Stopped(BaseException):
    """Raised inside a thread whose caller is gone."""


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function returns or raises; what only stops threads and tasks (KeyboardInterrupt, CancelledError, …) comes as a RuntimeError.

    Every call gets a thread of its own, not one of a pool that a few endless calls would fill. When the caller is cancelled (a time limit), the thread is
    stopped: Python code ends at its next step, native code that waits goes on waiting, as a daemon thread. Code that keeps the
    interpreter's lock (one long regular expression) stalls the loop all the same: it needs a process (`worker_pool`).
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def give(set_answer: Callable[[Any], None], value: Any) -> None:
        if not answer.done():
            set_answer(value)

    def run() -> None:
        try:
            outcome = answer.set_result, context.run(function, *args, **kwargs)
        except _Stopped:
            return
        except StopIteration as error:  # no future takes one
            outcome = answer.set_exception, _as_failure(error)
        except (Exception, SystemExit) as error:
            outcome = answer.set_exception, error
        except BaseException as error:  # would end the run, not the call
            outcome = answer.set_exception, _as_failure(error)
        with suppress(RuntimeError, _Stopped):  # the loop may have ended, or the caller gone, just now
            loop.call_soon_threadsafe(give, *outcome)

    thread = threading.Thread(target=run, daemon=True, name=getattr(function, "__name__", "tool"))
    thread.start()
    try:
        return await answer
    except asyncio.CancelledError:
        _stop(thread)
        raise


async def in_loop(work: Awaitable[Any]) -> Any:
    """The awaitable's value, run on a second loop that all such work of this process shares.

    When the caller is cancelled, so is the work. Code that blocks that loop blocks other such work only; once its caller is gone it is stopped like
    a thread, and a loop that stays blocked is replaced.
    """
    beside = _loop_beside()
    future = asyncio.run_coroutine_threadsafe(_failing(work), beside.loop)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        beside.look()
        raise


def start_in_loop(work: Awaitable[Any]) -> None:
    """Starts it on the second loop and does not wait."""
    asyncio.run_coroutine_threadsafe(_failing(work), _loop_beside().loop)


async def _failing(work: Awaitable[Any]) -> Any:
    """The work; exceptions that would stop the loop, or look like a cancellation by us, become a RuntimeError."""
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise _as_failure(error) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit) as error:
        raise _as_failure(error) from error


def _as_failure(error: BaseException) -> RuntimeError:
    return RuntimeError(f"{type(error).__name__}: {error}")


def _stop(thread: threading.Thread) -> None:
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped))


class _LoopBeside:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_report)
        self._thread = threading.Thread(target=self._run, daemon=True, name="beside")
        self._thread.start()
        self._looking = threading.Lock()

    def look(self) -> None:
        """Checks in a thread whether the loop is blocked, and frees it."""
        if self._looking.acquire(blocking=False):
            threading.Thread(target=self._free, daemon=True, name="beside-look").start()

    def _run(self) -> None:
        while True:
            with suppress(_Stopped):  # the code that blocked the loop ended just now
                self.loop.run_forever()

    def _free(self) -> None:
        try:
            if not self._answers():
                _stop(self._thread)
                if not self._answers():  # native code that waits
                    _give_up(self)
        finally:
            self._looking.release()

    def _answers(self) -> bool:
        seen = threading.Event()
        self.loop.call_soon_threadsafe(seen.set)
        return seen.wait(_HELD_S)


_current: _LoopBeside | None = None
_changing = threading.Lock()


def _loop_beside() -> _LoopBeside:
    global _current
    with _changing:
        _current = _current or _LoopBeside()
        return _current


def _give_up(held: _LoopBeside) -> None:
    global _current
    with _changing:
        _current = None if _current is held else _current


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), _Stopped):
        loop.default_exception_handler(context)
