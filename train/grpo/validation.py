"""How good the policy is on held-out tasks, and when a run ends because of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ...base.errors import ConfigError
from ...environments.mixture import weights_of
from ...eval.environment import evaluate_policy
from ...store.lance_store import quote
from ...store.runs import start_run
from ..checkpoints import metric_key
from .config_algorithm import EarlyStopConfig
from .generation import playing, sampling
from .metrics import JUDGED, each_environment
from .parts import Parts

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from ...store.runs import Run


def validate(parts: Parts, step: int) -> dict[str, float]:
    """Pass rate at temperature 1 on the validation tasks; the rollouts belong to a run `<run>-val-<step>` of kind eval.

    As in training, a rollout that failed (its environment or verifier did, or its time ran out) is no wrong answer: it is counted in
    `val/failed` and left out of `val/accuracy`, `val/stderr` and `val/n`. Without any other, the accuracy is 0.
    """
    config = parts.config
    tasks = list(parts.environment.tasks("validation"))[: config.grpo.max_val_samples]
    payload = {"run": parts.run.run_id, "step": step, "model_hash": None}
    with start_run(parts.store, "eval", f"{parts.run.run_id}-val-{step}", payload) as run:
        summary = evaluate_policy(
            parts.store,
            run,
            parts.environment,
            parts.policy,
            tasks,
            mode="sampled",
            sampling=sampling(config, step),
            **playing(config),
            play=parts.play,
        )
        run.finish({"pass_rate": summary.pass_rate, "stderr": summary.stderr, "n": summary.n})
    mixed = weights_of(parts.environment) is not None
    return validation_metrics(parts.store, run.run_id, {task.task_id for task in tasks}, mixed)


def validation_metrics(
    store: "LanceStore", run_id: str, tasks: set[str], by_environment: bool = False
) -> dict[str, float]:
    """`val/…` over the last attempt at each of the tasks, of which a run has one rollout each; also for each environment (`val/accuracy/NAME`)."""
    columns = ["rollout_id", "episode_id", "task_id", "environment", "attempt", "status", "passed"]
    rows = store.read("rollouts", columns, f"run_id = {quote(run_id)}").to_pylist()
    rows = [row for row in rows if row["episode_id"] in (None, row["rollout_id"])]
    last = {row["task_id"]: row for row in sorted(rows, key=lambda row: row["attempt"]) if row["task_id"] in tasks}
    found = list(last.values())
    return _accuracy(found) | (each_environment(found, _accuracy) if by_environment else {})


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    passed = [float(bool(row["passed"])) for row in rows if row["status"] in JUDGED]
    return {
        "val/accuracy": fmean(passed) if passed else 0.0,
        "val/stderr": stdev(passed) / math.sqrt(len(passed)) if len(passed) > 1 else 0.0,
        "val/n": float(len(passed)),
        "val/failed": float(len(rows) - len(passed)),
    }


def reason_to_stop(values: Sequence[float], settings: EarlyStopConfig) -> str | None:
    """Why a run whose validations gave `values`, in order, ends now; None when it continues. NaN is never good."""
    sign = 1 if settings.higher_is_better else -1
    rated = [sign * value if math.isfinite(value) else -math.inf for value in values]
    if not rated:
        return None
    if settings.target is not None and rated[-1] >= sign * settings.target:
        return f"{settings.metric_name} is {values[-1]:.4g}, the target is {settings.target:.4g}"
    best, since = -math.inf, 0
    for value in rated:
        since += 1
        if value > best + settings.min_delta or (best == -math.inf and value > best):
            best, since = value, 0
    if settings.patience is not None and since >= settings.patience:
        return f"{settings.metric_name} was not better for {since} validations"
    return None


class EarlyStop:
    """The validations of a run, those of earlier incarnations included, and whether they end it.

    Attributes:
        reason: Why the run ends with the latest of them; None when it continues.
    """

    def __init__(self, run: "Run", settings: EarlyStopConfig, validated: Iterable[int]) -> None:
        """`validated` are the steps before the first that is taken now, at which the run was validated."""
        self.settings = settings
        self._key = metric_key(settings.metric_name)
        self._on = settings.patience is not None or settings.target is not None
        self.reason: str | None = None
        self._values = _logged(run, self._key, set(validated)) if self._on else {}
        self._look()

    def saw(self, step: int, numbers: dict[str, float]) -> str | None:
        """Adds the numbers of a validated step; returns why the run ends with it, None when it continues. Raises ConfigError for an unknown number."""
        if not self._on:
            return None
        if self._key not in numbers:
            raise ConfigError(
                f"Step {step} has no metric {self.settings.metric_name}, which grpo.early_stop names.",
                f"Name one of {', '.join(sorted(numbers))}; start the run again to resume it.",
            )
        self._values[step] = numbers[self._key]
        self._look()
        return self.reason

    def _look(self) -> None:
        self.reason = reason_to_stop([self._values[step] for step in sorted(self._values)], self.settings)


def _logged(run: "Run", key: str, steps: set[int]) -> dict[int, float]:
    """Step → the number `key` that the run logged at it, in the last incarnation."""
    where = f"run_id = {quote(run.run_id)} and name = {quote(key)}"
    rows = run.store.read("metrics", ["incarnation", "step", "value"], where).to_pylist() if steps else []
    rows.sort(key=lambda row: row["incarnation"])
    return {row["step"]: row["value"] for row in rows if row["step"] in steps}
