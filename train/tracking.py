"""Logs the metrics of a training run: to the store always, to Weights & Biases when enabled."""

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .config import LoggerConfig
from .wandb_log import WandbLog

if TYPE_CHECKING:
    from ..store.runs import Run

FLUSH_AFTER_S = 2.0


class Tracker:
    """Logs the metrics of one run.

    Metrics are written to the store within two seconds of being logged, and on leaving the `with` block.
    """

    def __init__(
        self,
        run: "Run",
        logger: LoggerConfig | None = None,
        config: Mapping[str, Any] | None = None,
        by_itself: bool = True,
    ) -> None:
        """Opens the log of a run.

        Args:
            config: The configuration to show in Weights & Biases.
            by_itself: Whether log() flushes; False leaves it to the caller to flush() when it is due().

        Raises:
            MissingExtra: Weights & Biases is enabled but not installed.
        """
        self.run = run
        self._waiting: dict[int, dict[str, float]] = {}
        self._lock = threading.Lock()
        self._by_itself = by_itself
        self._flushed_at = time.monotonic()
        self._wandb = WandbLog(run, logger, config) if logger and logger.wandb_enabled else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs metrics of one optimizer step, counted from 1; step 0 is before training."""
        with self._lock:
            self._waiting.setdefault(step, {}).update({name: float(value) for name, value in values.items()})
        if self._wandb is not None:
            self._wandb.log(step, values)
        if self._by_itself and self.due():
            self.flush()

    def due(self) -> bool:
        """Whether the last flush is more than two seconds ago."""
        return time.monotonic() - self._flushed_at > FLUSH_AFTER_S

    def flush(self) -> None:
        """Writes pending metrics to the store. May be called on another thread than log()."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        try:
            for step in sorted(waiting):
                self.run.metrics(step, waiting[step])
                del waiting[step]
        finally:
            with self._lock:  # after a failure they stay pending
                for step, values in waiting.items():
                    self._waiting[step] = values | self._waiting.get(step, {})
        self._flushed_at = time.monotonic()

    def close(self, failed: bool = False) -> None:
        """Writes pending metrics and ends the run in Weights & Biases."""
        self.flush()
        if self._wandb is not None:
            self._wandb.close(failed)
            self._wandb = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close(failed=kind is not None)
