"""The learner in a Ray actor of its own, behind the same methods."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ...collect.engines.cluster import call, require_resources
from ...collect.models import need
from ...store.errors import TrainingError
from .batch import Sample
from .learner import Learner, StepResult
from .learner_settings import LearnerSettings


class RemoteLearner:
    """A `Learner` in another process; leaving the `with` block ends it. Ray must be running (`ensure_ray`).

    Raises EngineError when the cluster has no room for it, TrainingError when the process is gone, is not up after `start_timeout_s`
    seconds, or does not answer in `timeout_s`.
    """

    def __init__(
        self,
        model: str,
        settings: LearnerSettings,
        num_gpus: float = 0,
        timeout_s: float = 1800,
        start_timeout_s: float = 600,
    ) -> None:
        ray = need("ray")
        require_resources("the learner", "Set policy.device=cpu, or end what else runs on the cluster.", gpus=num_gpus)
        self._timeout_s = timeout_s
        self._actor: Any = ray.remote(Learner).options(num_cpus=1, num_gpus=num_gpus).remote(model, settings)
        try:
            call(self._actor.__ray_ready__.remote(), start_timeout_s, _gone)
        except BaseException:
            ray.kill(self._actor)
            raise

    def step(self, samples: Sequence[Sample], micro_batches: Sequence[Sequence[int]]) -> StepResult:
        """See Learner."""
        return self._call("step", samples, micro_batches)

    def logprobs(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0
    ) -> list[list[float]]:
        """See Learner."""
        return self._call("logprobs", sequences, temperature)

    def save_weights(self, path: str, dtype: str | None = None) -> None:
        """See Learner."""
        self._call("save_weights", path, dtype)

    def share_weights(self, path: str) -> bool:
        """See Learner."""
        return self._call("share_weights", path)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(learner, *arguments)` in the learner's process; one result, as there is one rank."""
        return [call(self._actor.__ray_call__.remote(function, *arguments), self._timeout_s, _gone)]

    def save_pretrained(self, folder: Any) -> None:
        """See Learner; the folder is on this machine."""
        self._call("save_pretrained", str(folder))

    def save_state(self, folder: Any) -> None:
        """See Learner; the folder is on this machine."""
        self._call("save_state", str(folder))

    def load_state(self, folder: Any) -> None:
        """See Learner; the folder is on this machine."""
        self._call("load_state", str(folder))

    def _call(self, method: str, *arguments: Any) -> Any:
        return call(getattr(self._actor, method).remote(*arguments), self._timeout_s, _gone)

    def __enter__(self) -> "RemoteLearner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        if ray.is_initialized():
            ray.kill(self._actor)


def _gone(why: str) -> TrainingError:
    return TrainingError(
        f"The learner's process is gone or does not answer: {why}.",
        "Start the run of the same name again. Where memory is short, start another one with a lower policy.train_mb_tokens.",
    )
