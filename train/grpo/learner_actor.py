"""The learner in a Ray actor of its own, behind the same methods."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from ...collect.models import need
from ...store.errors import RollhouseError, TrainingError
from .batch import Sample
from .learner import Learner, LearnerSettings, StepResult


class RemoteLearner:
    """A `Learner` in another process; leaving the `with` block ends it. Ray must be running (`ensure_ray`).

    Raises TrainingError when the process is gone or does not answer in `timeout_s` seconds.
    """

    def __init__(self, model: str, settings: LearnerSettings, timeout_s: float = 1800) -> None:
        ray = need("ray")
        self._timeout_s = timeout_s
        actor = ray.remote(Learner).options(num_cpus=1, num_gpus=1 if settings.device.startswith("cuda") else 0)
        self._actor: Any = actor.remote(model, settings)

    def step(self, samples: Sequence[Sample], micro_batches: Sequence[Sequence[int]]) -> StepResult:
        """See Learner."""
        return self._call("step", samples, micro_batches)

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """See Learner."""
        return self._call("logprobs", sequences)

    def save_weights(self, path: str) -> None:
        """See Learner."""
        self._call("save_weights", path)

    def save_pretrained(self, folder: Any) -> None:
        """See Learner; the folder is on this machine."""
        self._call("save_pretrained", str(folder))

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=self._timeout_s)
        except Exception as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, RollhouseError):
                raise type(cause)(cause.message, cause.fix) from error
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise TrainingError(
                f"The learner's process is gone or does not answer: {lines[-1] if lines else type(error).__name__}",
                "Look at free memory, lower policy.train_mb_tokens, and start the run of the same name again.",
            ) from error

    def __enter__(self) -> "RemoteLearner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)
