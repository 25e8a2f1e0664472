"""What the phases of a step work with, opened around an engine and a learner before the first step."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ...collect.runner import Play
from ...environments.types import Environment
from ...harness.opening import open_harnesses
from ...policies.chat import ChatFormat
from ...policies.engines.base import TokenEngine
from ...policies.engines.placement import engine_dtype
from ...policies.models import weights_hash
from ...policies.token_policy import TokenPolicy
from ...store.runs import Run
from ...store.writer import RolloutWriter
from ..tracking import Tracker
from .config import GrpoConfig
from .learner.batch import TrainSample
from .learner.restarting import RestartingLearner
from .ledger import last_planned
from .processes import adapter_arguments
from .saving import RunCheckpoints
from .sync.base import WeightSync
from .sync.sync import open_sync
from .sync.verify import Verification
from .teacher import Teacher, open_teacher

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore
    from .learner.learner import Learner


@dataclass
class Parts:
    """What the phases of a step work with.

    Attributes:
        commits: Commits that run beside the steps: a step's rollouts, its plan, its outcomes, its metrics, in this order.
        sync: How weights go from the learner to the engine.
        play: Plays a rollout, by the agent loop or a harness.
        model_hash: weights_hash of the model the run starts from.
        last_planned: The last step that the store had a plan of when the run was started; 0 for none.
        prompts: Tokens of the rendered prompts of the steps so far, by ledger.prompt_key.
        probe: Sequences that engine and learner are compared on; the latest batch that had any.
        checking: The comparison in progress; None when there is none.
        teacher: Of on-policy distillation; None without it.
    """

    store: "LanceStore"
    config: GrpoConfig
    run: Run
    environment: Environment
    engine: TokenEngine
    policy: TokenPolicy
    learner: "Learner | RestartingLearner"
    tracker: Tracker
    writer: RolloutWriter
    commits: "Commits"
    sync: WeightSync
    checkpoints: RunCheckpoints
    play: Play
    model_hash: str
    last_planned: int = 0
    prompts: dict[str, list[int]] = field(default_factory=dict)
    probe: list[TrainSample] = field(default_factory=list)
    checking: Verification | None = None
    teacher: Teacher | None = None


@contextmanager
def open_parts(
    store: "LanceStore",
    config: GrpoConfig,
    environment: Environment,
    engine: TokenEngine,
    learner: "Learner | RestartingLearner",
    run: Run,
    model: Path,
    chat: ChatFormat,
) -> Iterator[Parts]:
    """The parts of a run around an engine and a learner; the tracker, the writer and the weight sync end with the block."""
    kind, dtype = config.policy.generation.weight_sync, engine_dtype(engine)
    policy = TokenPolicy(engine, chat, policy_id=run.run_id)
    turns, limit_s = config.environment.max_turns, config.policy.generation.time_limit_s
    with (
        open_harnesses(environment, policy, turns, limit_s) as play,
        closing(
            open_sync(
                kind,
                learner,
                engine,
                dtype=dtype,
                share_parameters=True,
                adapters=adapter_arguments(config) is not None,
            )
        ) as sync,
        Tracker(run, config.logger, run.config, by_itself=False) as tracker,
        # One for all steps: it remembers which prompts and tasks are in the store. A step commits its rollouts when it has them all.
        RolloutWriter(store, run, max_age_s=10) as writer,
        Commits() as commits,
        open_teacher(store, config, chat) as teacher,
    ):
        hashed = run.config.get("model_hash") or weights_hash(model)
        yield Parts(
            store,
            config,
            run,
            environment,
            engine,
            policy,
            learner,
            tracker,
            writer,
            commits,
            sync,
            RunCheckpoints(run, config.checkpointing, chat.tokenizer, hashed),
            play,
            hashed,
            last_planned(store, run.run_id),
            teacher=teacher,
        )


class Commits:
    """The thread. The first commit that fails is the last: those begun after it are left out, and `wait` raises its error.

    Leaving the `with` block waits for all that was begun; it raises that error unless another is on its way.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "rollhouse-commits")
        self._failure: BaseException | None = None
        self._seconds = self._told = 0.0

    def begin(self, commit: Callable[[], object]) -> None:
        """Calls `commit` on the thread, after those begun before. From any thread."""
        self._thread.submit(self._commit, commit)

    def wait(self) -> None:
        """Returns when all that was begun before is in the store. Raises what the first that failed has raised."""
        self._thread.submit(lambda: None).result()
        if self._failure is not None:
            raise self._failure

    def take_seconds(self) -> float:
        """How long commits took, since the last call."""
        before, self._told = self._told, self._seconds
        return self._told - before

    def __enter__(self) -> "Commits":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None and self._failure is not None:
            raise self._failure

    def _commit(self, commit: Callable[[], object]) -> None:
        if self._failure is not None:
            return
        started = time.perf_counter()
        try:
            commit()
        except BaseException as failure:
            self._failure = failure
        finally:
            self._seconds += time.perf_counter() - started
