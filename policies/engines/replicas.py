"""Data parallel: several engines with the same weights that answer as one."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..types import Sampling
from .base import OnTokens, SampledTokens, TokenEngine


class ReplicatedEngine:
    """A TokenEngine over others. A request goes to the one with the fewest in flight, and stays there.

    Attributes:
        engines: At least one; all hold the same weights, but for the moments in which `load_weights` is under way.
    """

    def __init__(self, engines: Sequence[TokenEngine]) -> None:
        self.engines = tuple(engines)
        self.kind = engines[0].kind
        self.max_model_len = min(engine.max_model_len for engine in engines)
        self.version = engines[0].version
        self.streams = all(getattr(engine, "streams", False) for engine in engines)
        self.shapes = frozenset.intersection(*(frozenset(getattr(engine, "shapes", ())) for engine in engines))
        self._in_flight = [0] * len(engines)
        self._counting = threading.Lock()  # two event loops in two threads may ask at once

    def __reduce__(self) -> tuple:
        return ReplicatedEngine, (self.engines,)

    def adapted(self, folder: Path) -> "ReplicatedEngine":
        """See VllmActorEngine."""
        return ReplicatedEngine([engine.adapted(folder) for engine in self.engines])  # type: ignore[attr-defined]

    async def generate(
        self, prompt_ids: list[int], sampling: Sampling, on_tokens: OnTokens | None = None
    ) -> SampledTokens:
        """See TokenEngine."""
        return await self._ask("generate", prompt_ids, sampling, *([] if on_tokens is None else [on_tokens]))

    async def score(self, token_ids: list[int]) -> list[float]:
        """See TokenEngine."""
        return await self._ask("score", token_ids)

    async def load_weights(self, path: str, version: int) -> None:
        """See TokenEngine. Every engine gets them; when one fails, all have been tried, its error is raised and `version` stays."""
        await self.load_each([path] * len(self.engines), version)

    async def load_each(self, paths: Sequence[str], version: int) -> None:
        """As load_weights, each engine from a file of its own; parallel to `engines`."""
        loads = [engine.load_weights(path, version) for engine, path in zip(self.engines, paths, strict=True)]
        for result in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        self.version = version

    def close(self) -> None:
        """Closes all of them."""
        for engine in self.engines:
            engine.close()

    async def _ask(self, what: str, *given: Any) -> Any:
        with self._counting:
            least = min(range(len(self.engines)), key=self._in_flight.__getitem__)
            self._in_flight[least] += 1
        try:
            return await getattr(self.engines[least], what)(*given)
        finally:
            with self._counting:
                self._in_flight[least] -= 1
