"""Logs to Weights & Biases on a thread of its own, so that training never waits for it."""

import logging
import os
import queue
import threading
from collections.abc import Mapping
from typing import Any

from ..base.errors import MissingExtra
from ..store.runs import Run
from .config import LoggerConfig
from .runs import run_identity

log = logging.getLogger("rollhouse")

HELD_STEPS = 1000
"""Steps that may wait to be sent; further ones are dropped (the store has them all)."""
_LOCAL_S = 20.0  # for starting the process of wandb and writing its files, on a busy machine


class WandbLog:
    """A run in Weights & Biases. It is online with a key, offline without one or when the server is unreachable; $WANDB_MODE takes precedence.

    A resumed run keeps its id in Weights & Biases; a run of the same name in another store has a different one. Failures are logged and
    never raised.

    Attributes:
        dropped: Number of steps that were not sent.
    """

    def __init__(self, run: Run, logger: LoggerConfig, config: Mapping[str, Any] | None) -> None:
        """Returns at once. Raises MissingExtra without wandb."""
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("Weights & Biases is enabled but not installed.", "`pip install wandb`.") from error

        logger.log_dir.mkdir(parents=True, exist_ok=True)
        self.dropped = 0
        self._limit_s = logger.wandb.timeout_s
        self._mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb_key() else "offline")
        self._arguments: dict[str, Any] = {
            "project": logger.wandb.project,
            "name": logger.wandb.name or run.run_id,
            "id": f"{run.run_id}-{run_identity(run)}",
            "resume": "allow",
            "dir": str(logger.log_dir),
            "config": dict(config or {}),
            "settings": wandb.Settings(silent=True, init_timeout=self._limit_s, finish_timeout=self._limit_s),
        }
        self._queue: queue.Queue[tuple[int, dict[str, float]] | int] = queue.Queue(HELD_STEPS)
        self._thread = threading.Thread(target=self._work, name="rollhouse-wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queues the metrics of a step; never waits."""
        try:
            self._queue.put_nowait((step, dict(values)))
        except queue.Full:
            self.dropped += 1

    def close(self, failed: bool = False) -> None:
        """Ends the run in Weights & Biases and waits until everything is sent: at most three times the time limit (start, fall-back, end) and some seconds for local work."""
        try:
            self._queue.put(1 if failed else 0, timeout=self._limit_s)
        except queue.Full:
            self.dropped += HELD_STEPS
        self._thread.join(timeout=3 * self._limit_s + _LOCAL_S)
        if self._thread.is_alive() or self.dropped:
            log.warning(
                "Weights & Biases did not receive all metrics of %s; the store has them", self._arguments["name"]
            )

    def _work(self) -> None:
        try:
            run = self._open()
            while not isinstance(item := self._queue.get(), int):
                step, values = item
                run.log(values, step=step)
            run.finish(exit_code=item)
        except Exception:  # a failure of an external service must not end training
            log.warning("Weights & Biases failed; the run continues, and the store has its metrics", exc_info=True)

    def _open(self) -> Any:
        import wandb

        try:
            return wandb.init(**self._arguments, mode=self._mode)
        except wandb.Error as error:
            if self._mode != "online":
                raise
            log.warning("Weights & Biases is unreachable (%s); its files are kept for `wandb sync`", error)
            # The process of wandb still holds the first id.
            return wandb.init(**{**self._arguments, "id": f"{self._arguments['id']}-offline"}, mode="offline")


def wandb_key() -> str | None:
    """The Weights & Biases key of this machine ($WANDB_API_KEY or ~/.netrc); None when there is none."""
    import netrc

    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        entry = netrc.netrc().authenticators("api.wandb.ai")
    except (FileNotFoundError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None
