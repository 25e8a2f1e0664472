"""An engine that restarts: when its process dies, another is started, gets the last weights, and the requests are sent again.

`RestartingEngine(open, max_restarts, first=None)` is a TokenEngine around one engine, `restarting_vllm(model, max_restarts, **options)` opens
vLLM engines that way (each of several by itself), and `new_weights(engine, path, version)` is held while the file that weights are pushed
through is written: a restart never reads half a file.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ...base.errors import EngineError, RollhouseError
from ..types import Sampling
from .base import EngineGone, OnTokens, SampledTokens, TokenEngine
from .replicas import ReplicatedEngine


class RestartingEngine:
    """A TokenEngine around another that is replaced when it is gone. May be used from several event loops in several threads at once.

    A request in flight when the engine dies is sent again from its prompt, so that its tokens, logprobs and version spans are all the new
    engine's. The file of the last weights is read again for the new engine: it must stay as it was until the next `load_weights`.

    Attributes:
        restarts: How often an engine was started in another's place.
        last_failure: Why the last one was; None before.
    """

    def __init__(self, open: Callable[[], TokenEngine], max_restarts: int, first: TokenEngine | None = None) -> None:
        """`open` starts an engine with the model's own weights; `first` is one that runs already. Past `max_restarts` EngineGone is final."""
        self._open = open
        self._engine = first if first is not None else open()
        self.kind = self._engine.kind
        self.max_model_len = self._engine.max_model_len
        self.version = self._engine.version
        self.streams = getattr(self._engine, "streams", False)
        self.shapes: frozenset[str] = frozenset(getattr(self._engine, "shapes", ()))
        self.max_restarts = max_restarts
        self.restarts = 0
        self.last_failure: str | None = None
        self._weights: tuple[str, int] | None = None
        self._torn = False  # the file of the last weights was left half written
        self._closed = False
        self._restart_lock = threading.Lock()
        self._weights_lock = threading.Lock()  # the file and _weights belong together

    def __reduce__(self) -> tuple:
        """In another process it is the engine of now: only its owner restarts it."""
        return _same, (self._engine,)

    @property
    def engine(self) -> TokenEngine:
        """The engine of now."""
        return self._engine

    async def generate(
        self, prompt_ids: list[int], sampling: Sampling, on_tokens: OnTokens | None = None
    ) -> SampledTokens:
        """See TokenEngine. A request of which tokens were reported is not sent again: it raises EngineError."""
        if on_tokens is None:
            return await self._ask("generate", prompt_ids, sampling)
        reported = False

        def report(token_ids: list[int], logprobs: list[float], version: int) -> None:
            nonlocal reported
            reported = True
            on_tokens(token_ids, logprobs, version)

        while True:
            engine: Any = self._engine
            try:
                return await engine.generate(prompt_ids, sampling, report)
            except EngineGone as error:
                await self._replace(engine, error)
                if reported:
                    raise EngineError("The engine was started again in the middle of an answer.", "Send the request again.") from error  # fmt: skip

    async def score(self, token_ids: list[int]) -> list[float]:
        """See TokenEngine."""
        return await self._ask("score", token_ids)

    async def load_weights(self, path: str, version: int) -> None:
        """See TokenEngine. The file must stay as it is until the next call: an engine that is started later reads it."""
        with self._weights_lock:
            before, self._weights = self._weights, (str(path), version)
        while True:
            engine = self._engine
            try:
                await engine.load_weights(str(path), version)
            except EngineGone as error:
                await self._replace(engine, error)
                continue  # what was started may have read the weights before these
            except BaseException:
                with self._weights_lock:
                    self._weights = before
                raise
            if engine is self._engine:
                self.version = version
                return

    @contextmanager
    def new_weights(self, path: str, version: int) -> Iterator[None]:
        """Held while `path` is written; from its end on it is `version` that a restarted engine gets."""
        with self._weights_lock:
            self._torn = True
            yield
            self._weights, self._torn = (str(path), version), False

    def close(self) -> None:
        """Closes the engine of now; no other is started after it."""
        self._closed = True
        with self._restart_lock:
            self._engine.close()

    async def _ask(self, what: str, *given: Any) -> Any:
        while True:
            engine = self._engine
            try:
                return await getattr(engine, what)(*given)
            except EngineGone as error:
                await self._replace(engine, error)

    async def _replace(self, dead: TokenEngine, error: EngineGone) -> None:
        """Until another engine than `dead` is there. Raises EngineGone when there will be none."""
        if self._engine is dead:
            await asyncio.to_thread(self._replace_now, dead, error)

    def _replace_now(self, dead: TokenEngine, error: RollhouseError) -> None:
        with self._restart_lock:
            while self._engine is dead:
                if self._closed:
                    raise EngineGone("The engine was closed.", "Open another one.") from error
                if self.restarts >= self.max_restarts:
                    raise self._no_more(error) from error
                self.restarts += 1
                self.last_failure = error.message
                try:
                    self._start(dead)
                except RollhouseError as failed:
                    error = failed

    def _start(self, dead: TokenEngine) -> None:
        dead.close()
        engine = self._open()
        try:
            with self._weights_lock:
                if self._torn:
                    raise EngineGone("The engine's last weights were not written to their end.", "Start the run again.")
                if self._weights is not None:
                    asyncio.run(engine.load_weights(*self._weights))
                    self.version = self._weights[1]
                self._engine = engine
        except BaseException:
            engine.close()
            raise

    def _no_more(self, error: RollhouseError) -> EngineGone:
        if not self.max_restarts:
            return EngineGone(error.message, error.fix)
        return EngineGone(
            f"The engine was started {self.restarts} times in place of one that died and is not started again: {error.message}",
            "Look at free memory (`rollhouse doctor`) and run the same command again; it continues where it stopped.",
        )


def _same(engine: TokenEngine) -> TokenEngine:
    return engine


def restarts(engine: TokenEngine) -> int:
    """How often the engine, or one of its replicas, was started again; 0 for one that never is."""
    return sum(getattr(one, "restarts", 0) for one in getattr(engine, "engines", (engine,)))


@contextmanager
def new_weights(engine: TokenEngine, path: str, version: int) -> Iterator[None]:
    """Held while the file `path`, through which `version` is pushed, is written; see RestartingEngine. Nothing for an engine that never restarts."""
    with ExitStack() as held:
        for one in getattr(engine, "engines", (engine,)):
            if isinstance(one, RestartingEngine):
                held.enter_context(one.new_weights(path, version))
        yield


def restarting_vllm(model: str | Path, max_restarts: int, **options: Any) -> RestartingEngine | ReplicatedEngine:
    """As `open_vllm` with the same options, but that each engine is started again up to `max_restarts` times when it dies."""
    from .vllm_actor import open_vllm

    opened = open_vllm(model, **options)
    seed = options.pop("seed", 0)
    options.pop("data_parallel_size", None)
    placed = options.pop("placed", None)

    def another(number: int) -> Callable[[], TokenEngine]:
        own = (
            None if placed is None else [placed[number]]
        )  # where the dead one was: its weights file is on that machine
        return lambda: open_vllm(model, seed=seed + number, take_over=False, placed=own, **options)

    if isinstance(opened, ReplicatedEngine):
        engines = [RestartingEngine(another(i), max_restarts, one) for i, one in enumerate(opened.engines)]
        return ReplicatedEngine(engines)
    return RestartingEngine(another(0), max_restarts, opened)
