"""Engines that free a GPU shared with the learner during its step."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...base.errors import ConfigError
from ...base.event_loop import run_blocking
from .base import TokenEngine


@contextmanager
def asleep(engine: TokenEngine) -> Iterator[None]:
    """The engine, or each of several, without GPU memory for the time of the block; no request may be in flight. It was opened with `enable_sleep_mode`.

    Not run on a GPU. Raises ConfigError for an engine on a CPU or one that is not vLLM.
    """
    engines: list[Any] = [getattr(one, "engine", one) for one in getattr(engine, "engines", (engine,))]
    if not all(hasattr(one, "transfer") for one in engines):
        raise ConfigError(
            f"The engine {engine.kind} cannot sleep.", "Set policy.generation.sleep_while_training=false, or use vLLM."
        )
    run_blocking(_all(engines, "sleep"))
    try:
        yield
    finally:
        run_blocking(_all(engines, "wake"))


async def _all(engines: list[Any], step: str) -> None:
    await asyncio.gather(*[engine.transfer(step) for engine in engines])
