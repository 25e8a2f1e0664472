"""SFT and DPO on the learner of GRPO, without TRL: the model's own logits at learned positions only, prompts shared by rows, checkpoints of whole models.

Both are a weighted likelihood: minus the sum over learned tokens of weight * logprob.

    SFT    weight = 1 / learned tokens of the step
    DPO    weight of a token of a side: preference.py, over the pairs of the step; plus sft_loss_weight / chosen tokens of the step on chosen sides
"""

import math
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..base.errors import ConfigError, TrainingError
from ..base.packages import need
from ..policies.models import weights_hash
from ..store.checkpoint_paths import remove_marked, stored_path
from ..store.run_settings import refuse_other_config, run_payload
from ..store.runs import start_run
from .checkpoints import checkpoint_folder, finished_before, folder_of
from .offline import OnStep, Start, open_start
from .offline_config import OfflineConfig
from .runs import run_identity
from .tracking import Tracker
from .trl_setup import world_size

if TYPE_CHECKING:
    from ..store.lance_store import LanceStore
    from .grpo.learner.batch import TrainSample
    from .grpo.learner.learner import Learner
    from .grpo.loss import LossInputs

Rows = Sequence[Mapping[str, list[int]]]


class Objective(Protocol):
    """What is minimised, from dataset rows to weighted samples."""

    def prepare(self, learner: "Learner", rows: Rows) -> None:
        """Called with the first weights, for the rows that are trained and for those that are validated on."""
        ...

    def samples(self, learner: "Learner", rows: Rows) -> tuple[list["TrainSample"], dict[str, float]]:
        """The samples of a step, whose advantage is the weight of each learned token, and metrics without a prefix (`loss` among them, unless the learner's is meant)."""
        ...

    def measure(self, learner: "Learner", rows: Rows) -> dict[str, float]:
        """Metrics of rows that are not trained on, without a prefix."""
        ...


def likelihood(inputs: "LossInputs") -> tuple[Any, dict[str, Any]]:
    """Minus the weighted logprobs of each sequence, [B]. The learner divides by the step's sequences; `weighted` multiplies by them."""
    import torch

    return -inputs.advantages * torch.where(inputs.mask, inputs.logprobs, 0.0).sum(-1), {}


def sequence(name: str, ids: Sequence[int], mask: Sequence[int], weight: float = 0.0) -> "TrainSample":
    """A row as a sample; `mask` is parallel to ids, its first value is not used: a first token is predicted from nothing."""
    from .grpo.learner.batch import TrainSample

    start = max(1, next((at for at, bit in enumerate(mask) if bit), 1))
    learned = [int(bool(bit)) for bit in mask[start:]]
    return TrainSample(name, ids[:start], ids[start:], learned, [0.0] * sum(learned), weight)


def learned_logprobs(learner: "Learner", samples: Sequence["TrainSample"]) -> list[list[float]]:
    """Of the learned tokens of each sample, without a gradient."""
    found = learner.logprobs([(sample.prompt_ids, sample.token_ids) for sample in samples])
    return [list(compress(values, sample.loss_mask)) for values, sample in zip(found, samples, strict=True)]


def train_on_learner(
    store: "LanceStore",
    kind: str,
    config: OfflineConfig,
    length: "Length",
    write: Callable[[Start, Path], tuple[Rows, Rows, dict[str, Any]]],
    objective: Objective,
    on_step: OnStep | None,
) -> dict[str, Any]:
    """Trains a model on a dataset in a run, as offline.train_offline does, and returns the row of the last checkpoint.

    Args:
        write: Writes rows into a folder that exists until training ends; returns those to train on, those to validate on, and counts for the summary.
    """
    need("torch")
    if config.trl or world_size() > 1:
        what = "trl has no effect" if config.trl else "several processes are not supported"
        raise ConfigError(f"With trainer=learner {what}.", "Leave them out, or set trainer=trl.")
    start = open_start(store, config)
    parent = weights_hash(start.folder)
    payload = run_payload(config.model_copy(update={"dataset": start.dataset.label}), model_hash=parent)
    before = finished_before(store, kind, config.run, type(config), payload)
    if before is not None:
        if on_step is not None:
            on_step(before["step"], before["step"], "already trained; this is its checkpoint")
        return before
    with tempfile.TemporaryDirectory(prefix="rollhouse-rows-") as scratch:
        train, validation, counts = write(start, Path(scratch))
        with start_run(store, kind, config.run, payload) as run, Tracker(run, config.logger, payload) as tracker:
            if run.incarnation:
                refuse_other_config(store, run.run_id, type(config), payload)
            checkpoint_folder(run, config.checkpointing.checkpoint_dir)
            work = _Work(config, length, length.steps(len(train), config), start, objective, run, tracker, on_step)
            row, numbers = work.train(train, validation)
            kept = {"path": stored_path(store, Path(row["path"])), "weights_hash": row["weights_hash"]}
            run.finish({"checkpoint": row["checkpoint_id"], **kept, "steps": row["step"], "rows": counts, **numbers})
            work.remove_states(store)
    return row


@dataclass(frozen=True)
class Length:
    """How long a training is: `max_num_steps`, else `max_num_epochs` passes over the rows."""

    max_num_steps: int | None
    max_num_epochs: float
    seed: int

    def steps(self, n_rows: int, config: OfflineConfig) -> int:
        """Optimizer steps; the last one of a pass may have fewer rows."""
        if not n_rows:
            raise ConfigError("No row is left to train on.", "The run's dataset and policy.max_total_sequence_length decide which are.")  # fmt: skip
        a_pass = math.ceil(n_rows / config.policy.train_global_batch_size)
        return self.max_num_steps or math.ceil(self.max_num_epochs * a_pass)


class _Work:
    """One training."""

    def __init__(self, config: OfflineConfig, length: Length, steps: int, start: Start, objective: Objective, run: Any, tracker: Tracker, on_step: OnStep | None) -> None:  # fmt: skip
        from .grpo.config import GrpoCheckpointing
        from .grpo.learner.learner import Learner
        from .grpo.saving import RunCheckpoints

        self._config, self._steps, self._objective, self._run = config, steps, objective, run
        self._tracker, self._on_step, self._seed = tracker, on_step, length.seed
        self.learner = Learner(str(start.folder), learner_settings(config, steps, length.seed), loss=likelihood)
        settings = GrpoCheckpointing.model_validate(config.checkpointing.model_dump())
        self._checkpoints = RunCheckpoints(run, settings, start.chat.tokenizer, run.config["model_hash"])

    def train(self, train: Rows, validation: Rows) -> tuple[dict[str, Any], dict[str, float]]:
        """Takes the steps after the newest state; returns the row of the last checkpoint and the last step's numbers."""
        self._objective.prepare(self.learner, train)
        self._objective.prepare(self.learner, validation)
        done = self._checkpoints.load_newest(self.learner, self._steps)
        numbers: dict[str, float] = {}
        period = self._config.validation.period
        for step, batch in batches(len(train), self._config.policy.train_global_batch_size, self._steps, self._seed):
            if step <= done:
                continue
            numbers = self._take(step, [train[place] for place in batch])
            saving = _due(step, self._config.checkpointing.save_period) and step < self._steps
            if validation and (step == self._steps or saving or _due(step, period)):
                measured = self._objective.measure(self.learner, validation)
                numbers |= {f"val/{name}": value for name, value in measured.items()}
            self._tracker.log(step, numbers)
            if saving:
                self._tracker.flush()
                self._checkpoints.save(self.learner, step, numbers)
            if self._on_step is not None:
                self._on_step(step, self._steps, f"loss {numbers['train/loss']:.4f}")
        return self._checkpoints.save(self.learner, self._steps, numbers), numbers

    def _take(self, step: int, rows: Rows) -> dict[str, float]:
        from .grpo.learner.batch import split_micro_batches

        samples, found = self._objective.samples(self.learner, rows)
        n_learned = sum(1 for sample in samples if sample.n_sampled)
        weighted = [_times(sample, n_learned) for sample in samples]
        budget = self._config.policy.train_micro_batch_size * max(sample.length for sample in samples)
        result = self.learner.step(weighted, split_micro_batches([sample.length for sample in samples], budget))
        names = ("train/loss", "train/grad_norm", "train/lr", "train/entropy", "train/n_tokens", "train/router_loss")
        numbers = {name: value for name, value in result.metrics.items() if name in names or name.startswith("moe/")}
        numbers |= {f"train/{name}": value for name, value in found.items()}
        if not math.isfinite(numbers.get("train/loss", math.nan)):
            raise TrainingError(f"The loss of step {step} is not finite.", "Lower the learning rate.")
        return numbers

    def remove_states(self, store: "LanceStore") -> None:
        """A finished run is not resumed."""
        folder = folder_of(store, self._run.run_id, self._config.checkpointing.checkpoint_dir)
        for state in folder.glob("state_*"):
            remove_marked(state, folder, run_identity(self._run))


def batches(n_rows: int, size: int, steps: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """(step from 1, positions of its rows): each pass in another order, by the seed alone."""
    step, passes = 0, 0
    while step < steps:
        order = list(range(n_rows))
        random.Random(f"{seed} {passes}").shuffle(order)
        for first in range(0, n_rows, size):
            step += 1
            if step > steps:
                return
            yield step, order[first : first + size]
        passes += 1


def learner_settings(config: OfflineConfig, steps: int, seed: int) -> Any:
    """The learner's settings of an offline run. The rate falls so that it would be 0 one step after the last."""
    import torch

    from .grpo.config_algorithm import AlgorithmConfig
    from .grpo.config_policy import PolicyConfig
    from .grpo.learner.settings import LearnerSettings, learner_device

    policy, device = config.policy, learner_device(config.policy.device)
    optimizer = policy.optimizer.model_dump() | {"decay_steps": max(1, steps - policy.optimizer.warmup_steps) + 1}
    names = ("model_name", "max_total_sequence_length", "max_grad_norm", "activation_checkpointing", "device", "lora")
    shared = {name: getattr(policy, name) for name in names}
    precision = "bfloat16" if device.startswith("cuda") else "float32"
    made = PolicyConfig(**shared, optimizer=optimizer, precision=precision, threads=torch.get_num_threads())  # type: ignore[arg-type]
    return LearnerSettings(made, AlgorithmConfig(seed=seed), device=device)


def _times(sample: "TrainSample", n: int) -> "TrainSample":
    from dataclasses import replace

    return replace(sample, advantage=sample.advantage * n)


def _due(step: int, period: int | None) -> bool:
    return bool(period) and step % period == 0
