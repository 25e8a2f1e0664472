"""The learner in Ray actors of its own, one a rank, behind the methods of one Learner."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from ....base.errors import RollhouseError, TrainingError
from ....base.packages import need
from ....policies.engines.cluster import our_error, require_resources
from .batch import TrainSample
from .learner import Learner, StepResult
from .settings import LearnerSettings

GRACE_S = 10
"""Seconds that the other ranks have to report their error when a rank fails; then they are ended."""

LOST_S = 60
"""The same where its error is not ours: another rank may have died, which Ray reports later than their connection does."""


class LearnerGone(TrainingError):
    """A rank's process has ended, and with it the group."""


class LearnerGroup:
    """`ranks` processes that hold a share of the weights, gradients and moments each; leaving the `with` block ends them. Ray must be running (`ensure_ray`).

    One rank is a plain Learner in a process of its own. A rank that dies ends the group: that call and those after it raise LearnerGone.

    Attributes:
        ranks: How many.
    """

    def __init__(
        self,
        model: str,
        settings: LearnerSettings,
        ranks: int = 1,
        num_gpus: float = 0.0,
        placement: Sequence[Mapping[str, Any]] | None = None,
        timeout_s: float = 1800,
        start_timeout_s: float = 600,
        collective_timeout_s: float = 600,
    ) -> None:
        """Starts the ranks; the model folder must be there on each one's machine.

        Args:
            num_gpus: Of each rank.
            placement: Options of each rank's actor (`Placement.learners`); None takes a CPU and num_gpus each, wherever they are free.
            timeout_s: Of a call, and of opening the model where start_timeout_s is less.
            collective_timeout_s: Of an exchange between ranks.

        Raises EngineError when the cluster has no room, LearnerGone when a process dies, TrainingError when one does not start in
        `start_timeout_s` seconds or does not answer in time.
        """
        ray = need("ray")
        self.ranks, self._timeout_s = ranks, timeout_s
        if placement is None:
            fix = "Set policy.device=cpu or fewer cluster.learner_ranks, or end other programs on the cluster."
            require_resources("the learner", fix, cpus=ranks, gpus=ranks * num_gpus)
            placement = [{"num_cpus": 1, "num_gpus": num_gpus}] * ranks
        self._actors: list[Any] = []
        try:
            for options in placement:
                self._actors.append(ray.remote(_Rank).options(**options).remote())
            meeting = self._wait([self._actors[0].rendezvous.remote()], start_timeout_s)[0] if ranks > 1 else None
            opening = [
                actor.open.remote(model, settings, rank, ranks, meeting, collective_timeout_s)
                for rank, actor in enumerate(self._actors)
            ]
            self._wait(opening, max(start_timeout_s, timeout_s))
        except BaseException:
            self.close()
            raise

    @property
    def steps(self) -> int:
        """See Learner."""
        return self._call("count")

    def step(
        self,
        samples: Sequence[TrainSample],
        micro_batches: Sequence[Sequence[int]],
        before_update: Callable[[], object] | None = None,
    ) -> StepResult:
        """See Learner; here `before_update` comes first, since a rank cannot call it."""
        if before_update is not None:
            before_update()
        return self._call("step", samples, micro_batches)

    def logprobs(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0
    ) -> list[list[float]]:
        """See Learner."""
        return self._call("logprobs", sequences, temperature)

    def reference_kl(self, samples: Sequence[TrainSample]) -> list[float]:
        """See Learner."""
        return self._call("reference_kl", samples)

    def save_weights(self, path: str, dtype: str | None = None) -> None:
        """See Learner; the file is on rank 0's machine."""
        self._call("save_weights", path, dtype)

    def save_adapters(self, path: str) -> None:
        """See Learner; the file is on rank 0's machine."""
        self._call("save_adapters", path)

    def share_weights(self, path: str) -> bool:
        """See Learner."""
        return self._call("share_weights", path)

    def save_pretrained(self, folder: Any) -> None:
        """See Learner; the folder is on rank 0's machine."""
        self._call("save_pretrained", str(folder))

    def save_state(self, folder: Any) -> None:
        """See Learner; the folder is on rank 0's machine."""
        self._call("save_state", str(folder))

    def load_state(self, folder: Any) -> None:
        """See Learner; the folder is read on each rank's machine."""
        self._call("load_state", str(folder))

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(learner, *arguments)` in each rank's process: a result a rank."""
        return self._wait([actor.run.remote(function, *arguments) for actor in self._live()], self._timeout_s)

    def node(self) -> str:
        """Id of the Ray node that rank 0 runs on."""
        return self._wait([self._live()[0].node.remote()], self._timeout_s)[0]

    def close(self) -> None:
        """Ends the ranks."""
        import ray

        actors, self._actors = self._actors, []
        if ray.is_initialized():
            for actor in actors:
                ray.kill(actor)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        actors = self._live()
        shared = [ray.put(value) for value in arguments] if len(actors) > 1 else arguments
        return self._wait([actor.call.remote(method, *shared) for actor in actors], self._timeout_s)[0]

    def _live(self) -> list[Any]:
        if not self._actors:
            raise _gone("it was ended")
        return self._actors

    def _wait(self, references: list[Any], timeout_s: float) -> list[Any]:
        """The values, once all are there; the group ends when a rank fails and the others do not return."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        def died(errors: list[Exception]) -> bool:
            return any(isinstance(error, RayError) and not isinstance(error, RayTaskError) for error in errors)

        end, pending, errors = time.monotonic() + timeout_s, references, []
        while pending:
            done, pending = ray.wait(pending, timeout=max(0, end - time.monotonic()))
            if not done:
                break
            found = [error for reference in done if (error := _error(reference)) is not None]
            if found:
                known = died(found) or all(map(_is_ours, found))
                end = min(end, time.monotonic() + (GRACE_S if known else LOST_S))
            errors += found
        if not pending and not errors:
            return ray.get(references)
        words = [our_error(error, _gone if died(errors) else _failed) for error in errors] or [_late(timeout_s)]
        own = [our for our, error in zip(words, errors, strict=False) if _is_ours(error)]
        if pending or len(own) < len(references):
            self.close()  # where all ranks refuse alike they are as they were
        lost = sorted((our for our in words if isinstance(our, LearnerGone)), key=lambda our: "was killed" not in our.message)  # fmt: skip
        raise (lost or own or words)[0]

    def __enter__(self) -> "LearnerGroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Rank:
    """A rank's process."""

    def __init__(self) -> None:
        self.learner: Any = None

    def rendezvous(self) -> str:
        """An address of this machine to meet at."""
        import ray

        from .ranks import reserve_rendezvous

        return reserve_rendezvous(ray.util.get_node_ip_address())

    def open(self, model: str, settings: LearnerSettings, *meeting: Any) -> None:
        """`meeting`: rank, world size, rendezvous and time limit of a Learner."""
        self.learner = Learner(model, settings, *meeting)

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the learner; all ranks have the same answer, so only the first one's is sent."""
        answer = self.learner.steps if method == "count" else getattr(self.learner, method)(*arguments)
        return answer if self.learner.rank == 0 else None

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.learner, *arguments)

    def node(self) -> str:
        import ray

        return ray.get_runtime_context().get_node_id()


def _error(reference: Any) -> Exception | None:
    import ray

    try:
        ray.get(reference)
    except Exception as error:  # the caller reports it
        return error
    return None


def _is_ours(error: Exception) -> bool:
    return isinstance(getattr(error, "cause", None) or error, RollhouseError)


def _late(seconds: float) -> TrainingError:
    return TrainingError(
        f"The learner did not answer within {seconds:g} s.",
        "Raise cluster.step_timeout_s if its steps take that long, and start the same command again to resume.",
    )


def _failed(why: str) -> TrainingError:
    return TrainingError(
        f"The learner failed: {why}.", "Start the same command again to resume; if it fails again, report a bug."
    )


def _gone(why: str) -> LearnerGone:
    return LearnerGone(
        f"The learner's process died: {why}.",
        "Start the same command again to resume; if memory is short, with a lower policy.train_mb_tokens.",
    )
