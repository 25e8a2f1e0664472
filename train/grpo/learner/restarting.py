"""A learner that survives its processes: when a rank dies, the group is started again and restored from what is stored.

A step that was interrupted is taken again on the same batch, so the run is the same, bit for bit. The engines continue meanwhile: they have
the weights that the new learner is restored to.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batch import TrainSample
from .group import LearnerGone, LearnerGroup
from .state import read_numbers

if TYPE_CHECKING:
    from .learner import Learner, StepResult


class RestartingLearner:
    """A LearnerGroup that is replaced when its process dies. A call that takes too long ends the run.

    Attributes:
        steps: Batches that the learner has trained on, those of a loaded state included.
        restarts: Number of groups started in place of one that died.
        last_failure: Why the last one was; None before.
    """

    def __init__(
        self,
        first: "LearnerGroup | Learner",
        another: "Callable[[], LearnerGroup | Learner]",
        restore: "Callable[[LearnerGroup | Learner, int], None]",
        max_restarts: int,
    ) -> None:
        """`another` starts a group with the first weights, `restore(learner, n)` brings it to where it was after n steps. After `max_restarts` restarts LearnerGone is raised."""
        self._group, self._another, self._restore = first, another, restore
        self._shared: str | None = None  # the file that its parameters live in
        self.max_restarts = max_restarts
        self.steps = self.restarts = 0
        self.last_failure: str | None = None

    @property
    def group(self) -> "LearnerGroup | Learner":
        """The current learner."""
        return self._group

    def step(
        self,
        samples: Sequence[TrainSample],
        micro_batches: Sequence[Sequence[int]],
        before_update: Callable[[], object] | None = None,
    ) -> "StepResult":
        """See Learner; a step that is taken again calls it again."""
        result = self._call("step", samples, micro_batches, before_update)
        self.steps += 1
        return result

    def logprobs(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0
    ) -> list[list[float]]:
        """See Learner."""
        return self._call("logprobs", sequences, temperature)

    def reference_kl(self, samples: Sequence[TrainSample]) -> list[float]:
        """See Learner."""
        return self._call("reference_kl", samples)

    def save_weights(self, path: str, dtype: str | None = None) -> None:
        """See LearnerGroup."""
        self._call("save_weights", path, dtype)

    def save_adapters(self, path: str) -> None:
        """See LearnerGroup."""
        self._call("save_adapters", path)

    def share_weights(self, path: str) -> bool:
        """See Learner."""
        shared = self._call("share_weights", path)
        self._shared = path if shared else None
        return shared

    def save_pretrained(self, folder: Any) -> None:
        """See LearnerGroup."""
        self._call("save_pretrained", folder)

    def save_state(self, folder: Any) -> None:
        """See LearnerGroup."""
        self._call("save_state", folder)

    def load_state(self, folder: Any) -> None:
        """See LearnerGroup."""
        self._call("load_state", folder)
        self.steps = read_numbers(Path(folder))["steps"]

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """See LearnerGroup."""
        return self._call("run", function, *arguments)

    def node(self) -> str:
        """See LearnerGroup."""
        return self._call("node")

    def close(self) -> None:
        """Ends the current group."""
        self.max_restarts = 0
        end(self._group)

    def _call(self, what: str, *given: Any) -> Any:
        while True:
            try:
                return getattr(self._group, what)(*given)
            except LearnerGone as error:
                self._replace(error)

    def _replace(self, error: LearnerGone) -> None:
        """Until another group is where the dead one was. Raises LearnerGone when there will be none."""
        while True:
            if self.restarts >= self.max_restarts:
                raise self._no_more(error) from error
            self.restarts += 1
            self.last_failure = error.message
            end(self._group)
            try:
                self._group = self._another()
                self._restore(self._group, self.steps)
                if self._shared is not None:
                    self._group.share_weights(self._shared)
                return
            except LearnerGone as again:
                error = again

    def _no_more(self, error: LearnerGone) -> LearnerGone:
        if not self.restarts:
            return error
        return LearnerGone(
            f"The learner died after {self.restarts} restarts (cluster.max_restarts): {error.message}",
            error.fix,
        )


def end(learner: "LearnerGroup | Learner") -> None:
    """Ends the processes of a group; a learner of this process has none."""
    close = getattr(learner, "close", None)
    if close is not None:
        close()
