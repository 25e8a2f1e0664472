"""Weights & Biases on a thread of its own: whatever it waits for, training does not."""

import logging
import os
import queue
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import MissingExtra
from .identity import run_identity

if TYPE_CHECKING:
    from ..store.runs import Run
    from .tracking import LoggerConfig

log = logging.getLogger("rollhouse")

HELD_STEPS = 1000
"""So many logged steps may wait for Weights & Biases; further ones are not sent (the store has them all)."""


_LOCAL_S = 20.0  # for starting its own process and writing its files, on a busy machine


class WandbLog:
    """A run in Weights & Biases: online with a key, offline without one or when nobody answers, whatever $WANDB_MODE says first.

    A run that goes on keeps its id there; one of the same name in another store has another. A failure of it is logged and never raised.

    Attributes:
        dropped: Steps that were not sent.
    """

    def __init__(self, run: "Run", logger: "LoggerConfig", config: Mapping[str, Any] | None) -> None:
        """Returns at once. Raises MissingExtra without wandb."""
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("Weights & Biases is switched on but not installed.", "`pip install wandb`.") from error

        logger.log_dir.mkdir(parents=True, exist_ok=True)
        self.dropped = 0
        self._limit_s = logger.wandb.timeout_s
        self._mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb_key() else "offline")
        self._asked: dict[str, Any] = {
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
        """Hands over the numbers of a step; never waits."""
        try:
            self._queue.put_nowait((step, dict(values)))
        except queue.Full:
            self.dropped += 1

    def close(self, failed: bool = False) -> None:
        """Ends the run there; waits until what was logged is sent, three times the limit (start, fall-back, end) at most and some seconds for work on this machine."""
        try:
            self._queue.put(1 if failed else 0, timeout=self._limit_s)
        except queue.Full:
            self.dropped += HELD_STEPS
        self._thread.join(timeout=3 * self._limit_s + _LOCAL_S)
        if self._thread.is_alive() or self.dropped:
            log.warning("Weights & Biases did not take everything of %s; the store has it", self._asked["name"])

    def _work(self) -> None:
        try:
            run = self._open()
            while not isinstance(item := self._queue.get(), int):
                step, values = item
                run.log(values, step=step)
            run.finish(exit_code=item)
        except Exception:  # whatever another's service does must not end training
            log.warning("Weights & Biases failed; the run goes on and the store has its numbers", exc_info=True)

    def _open(self) -> Any:
        import wandb

        try:
            return wandb.init(**self._asked, mode=self._mode)
        except wandb.Error as error:
            if self._mode != "online":
                raise
            log.warning("Weights & Biases does not answer (%s); its files are kept for `wandb sync`", error)
            # Its process still holds the id that was asked for.
            return wandb.init(**{**self._asked, "id": f"{self._asked['id']}-offline"}, mode="offline")


def wandb_key() -> str | None:
    """The Weights & Biases key of this machine ($WANDB_API_KEY or ~/.netrc), None when there is none."""
    import netrc

    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        entry = netrc.netrc().authenticators("api.wandb.ai")
    except (FileNotFoundError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None
