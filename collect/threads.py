"""A function of somebody else's code in a thread of its own, so that a slow or endless one never holds up the event loop."""

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class _Stopped(BaseException):
    """Raised inside a thread that nobody waits for any more."""


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function returns or raises.

    Every call gets a thread of its own, not one of a pool that a few endless calls would fill. When the caller is cancelled (a time limit), the thread is
    told to stop: Python code ends at its next step, native code that waits goes on waiting, as a daemon that holds up nothing. Code that keeps the
    interpreter to itself (one long regular expression) stalls the loop all the same: that wants a process (`guard`).
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
            outcome = answer.set_exception, RuntimeError(f"StopIteration: {error}")
        except BaseException as error:
            outcome = answer.set_exception, error
        with suppress(RuntimeError, _Stopped):  # the loop may have ended, or the caller gone, just now
            loop.call_soon_threadsafe(give, *outcome)

    thread = threading.Thread(target=run, daemon=True, name=getattr(function, "__name__", "tool"))
    thread.start()
    try:
        return await answer
    except asyncio.CancelledError:
        if thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped))
        raise
