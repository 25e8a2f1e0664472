"""Where the numbers of a training run go: the store always, Weights & Biases when it is switched on."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..store.errors import MissingExtra
from .identity import run_identity
from .section import Section

if TYPE_CHECKING:
    from ..store.runs import Run

FLUSH_AFTER_S = 2.0


class WandbConfig(Section):
    """Where in Weights & Biases a run appears."""

    project: str = "rollhouse"
    name: str | None = None
    """The run's id when not given."""


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

    def __init__(self, run: "Run", logger: LoggerConfig | None = None, config: Mapping[str, Any] | None = None) -> None:
        self.run = run
        self._waiting: dict[int, dict[str, float]] = {}
        self._flushed_at = time.monotonic()
        self._wandb = open_wandb(run, logger, config) if logger and logger.wandb_enabled else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one optimizer step, counted from 1; 0 is before training."""
        self._waiting.setdefault(step, {}).update({name: float(value) for name, value in values.items()})
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)
        if time.monotonic() - self._flushed_at > FLUSH_AFTER_S:
            self.flush()

    def flush(self) -> None:
        """Writes what waits to the store."""
        for step, values in sorted(self._waiting.items()):
            self.run.metrics(step, values)
        self._waiting.clear()
        self._flushed_at = time.monotonic()

    def close(self, failed: bool = False) -> None:
        """Writes what waits and ends the Weights & Biases run."""
        self.flush()
        if self._wandb is not None:
            self._wandb.finish(exit_code=1 if failed else 0)
            self._wandb = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close(failed=kind is not None)


def open_wandb(run: "Run", logger: LoggerConfig, config: Mapping[str, Any] | None) -> Any:
    """The run in Weights & Biases: online with a key, offline without one, whatever $WANDB_MODE says first.

    A run that goes on keeps its id there; one of the same name in another house has another.
    """
    try:
        import wandb
    except ImportError as error:
        raise MissingExtra("Weights & Biases is switched on but not installed.", "`pip install wandb`.") from error

    logger.log_dir.mkdir(parents=True, exist_ok=True)
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb_key() else "offline")
    return wandb.init(
        project=logger.wandb.project,
        name=logger.wandb.name or run.run_id,
        id=f"{run.run_id}-{run_identity(run)}",
        resume="allow",
        dir=str(logger.log_dir),
        mode=mode,  # type: ignore[arg-type]
        config=dict(config or {}),
        settings=wandb.Settings(silent=True),
    )


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
