"""Where the numbers of a training run go: the store always, Weights & Biases when it is switched on."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..base.config import Section
from .wandb_log import WandbLog

if TYPE_CHECKING:
    from ..store.runs import Run

FLUSH_AFTER_S = 2.0


class WandbConfig(Section):
    """Where in Weights & Biases a run appears."""

    project: str = "rollhouse"
    name: str | None = None
    """The run's id when not given."""
    timeout_s: float = Field(default=30, gt=0)
    """How long its server is waited for when a run starts and when it ends; a step never waits. Past it the files are kept for `wandb sync`."""


class LoggerConfig(Section):
    """What is logged besides the store."""

    log_dir: Path = Path("logs")
    """Where Weights & Biases keeps its files."""
    wandb_enabled: bool = False
    wandb: WandbConfig = Field(default_factory=WandbConfig)


class Tracker:
    """Logs the numbers of one run.

    Numbers reach the store at the latest two seconds after they were logged, and on leaving the `with`.
    """

    def __init__(
        self,
        run: "Run",
        logger: LoggerConfig | None = None,
        config: Mapping[str, Any] | None = None,
        by_itself: bool = True,
    ) -> None:
        """`by_itself=False` leaves it to the caller to flush() when it is due()."""
        self.run = run
        self._waiting: dict[int, dict[str, float]] = {}
        self._lock = threading.Lock()
        self._by_itself = by_itself
        self._flushed_at = time.monotonic()
        self._wandb = WandbLog(run, logger, config) if logger and logger.wandb_enabled else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one optimizer step, counted from 1; 0 is before training."""
        with self._lock:
            self._waiting.setdefault(step, {}).update({name: float(value) for name, value in values.items()})
        if self._wandb is not None:
            self._wandb.log(step, values)
        if self._by_itself and self.due():
            self.flush()

    def due(self) -> bool:
        """Whether the last flush is two seconds ago."""
        return time.monotonic() - self._flushed_at > FLUSH_AFTER_S

    def flush(self) -> None:
        """Writes what waits to the store; may be called on another thread than log()."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        try:
            for step in sorted(waiting):
                self.run.metrics(step, waiting[step])
                del waiting[step]
        finally:
            with self._lock:  # after a failure they wait on
                for step, values in waiting.items():
                    self._waiting[step] = values | self._waiting.get(step, {})
        self._flushed_at = time.monotonic()

    def close(self, failed: bool = False) -> None:
        """Writes what waits and ends the Weights & Biases run."""
        self.flush()
        if self._wandb is not None:
            self._wandb.close(failed)
            self._wandb = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close(failed=kind is not None)
