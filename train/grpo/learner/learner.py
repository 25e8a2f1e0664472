"""The learner: a torch model with AdamW that takes one optimizer step a batch. Needs torch and transformers only."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....base.errors import TrainingError
from ....policies.engines.weight_file import mapped_tensors, write_weights
from ...weights import (
    FolderDtypes,
    folder_weights,
    is_converted,
    own_adapters,
    own_weights,
    persistent_buffers,
    write_adapters,
    write_folder,
)
from ..custom import load_loss
from ..loss import LossFunction, LossInputs, StepTotals, policy_loss
from .adapters import without_adapters
from .batch import MicroBatch, TrainSample, collate, split_micro_batches
from .layout import Layout, choose_rows, model_cost, plain_layout, shared_layout
from .logprobs import TokenScorer, can_share_prefix, logprob_gap, refuse_other_logits, spread
from .model import evaluating, open_model, open_reference
from .ranks import dealt, gathered, join, laid_like, split_model, whole
from .router import router_of
from .routes import UNKNOWN, refuse_unreplayable, routes_of
from .settings import LearnerSettings
from .state import gather_state, read_numbers, restore, seeded, write_state
from .update import StepResult, TokenSums, Update, learning_rate, merge, not_finite, out_of_memory, step_result

SCORED_AT_ONCE = 8192
"""Padded tokens of a micro-batch that is only scored."""

NOTHING = TrainSample("", [0], [0], [0], [])
"""What a rank computes while others have one more micro-batch: no token of it counts, but the ranks' exchanges need it."""


class Learner:
    """Holds the model and its optimizer. Weights are float32.

    Attributes:
        steps: Batches trained on so far, empty and skipped ones included.
    """

    def __init__(
        self,
        model: str,
        settings: LearnerSettings,
        rank: int = 0,
        world_size: int = 1,
        rendezvous: str | None = None,
        timeout_s: float = 600,
        loss: LossFunction | None = None,
    ) -> None:
        """Loads a model folder that transformers reads.

        Of several ranks, each is a process with a Learner of its own; all get the same calls with the same arguments, and give the same answers.

        Args:
            rendezvous: `host:port` where the ranks meet, on rank 0's machine; None for one rank, which needs no torch.distributed.
            timeout_s: How long a rank waits for another in an exchange.
            loss: Policy term in place of that of loss_fn.
        """
        torch.set_num_threads(settings.policy.threads)
        self.settings = settings
        self._policy, self._loss = settings.policy, settings.loss_fn
        self._custom = loss or load_loss(self._loss.custom)
        self.rank, self.world_size = rank, world_size
        if world_size > 1:
            if rendezvous is None:
                raise ValueError(f"{world_size} ranks need a rendezvous")
            join(rank, world_size, rendezvous, settings.device, timeout_s)
        # Of several ranks the first alone reads the weights, on a CPU; split_model gives the others their shares.
        device = settings.device if world_size == 1 else "cpu" if rank == 0 else "meta"
        self.model: Any = open_model(model, settings, device)
        self._dtypes = FolderDtypes(model)
        # On rank 0 alone, and reported by all: the others have no values yet.
        refuse_other_logits(self.model, gathered(logprob_gap(self.model, device) if rank == 0 else 0.0, world_size)[0])
        if self._policy.router_replay and rank == 0:
            refuse_unreplayable(self.model, device)
        # Routes are by sequence, so each has a row of its own.
        shares = (
            rank == 0
            and self._policy.shared_prefix
            and not self._policy.router_replay
            and can_share_prefix(self.model, device)
        )
        self._cost = model_cost(self.model) if gathered(shares, world_size)[0] else None
        self._scorer = TokenScorer(self.model)
        self._router = router_of(self.model, self._policy.router_loss, world_size)
        self._reference = None
        if self._loss.reference_policy_kl_penalty:
            own = self._policy.lora is not None  # without its adapters the policy is its own reference
            self._reference = self._scorer if own else TokenScorer(open_reference(model, device))
        if world_size > 1:
            split_model(self._scorer, settings.device, self._policy.precision)
            if self._reference is not None and self._reference is not self._scorer:
                split_model(self._reference, settings.device, self._policy.precision)
        fused = True if settings.device.startswith("cuda") else None  # one kernel a step
        optimizer = self._policy.optimizer
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self._trained().values(), optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay, fused=fused
        )
        self.steps = 0

    def step(
        self,
        samples: Sequence[TrainSample],
        micro_batches: Sequence[Sequence[int]],
        before_update: Callable[[], object] | None = None,
    ) -> StepResult:
        """One optimizer step (grpo.num_updates_per_batch of them) over all samples; the gradient does not depend on how `micro_batches` splits them.

        Args:
            micro_batches: Positions in `samples`; each position in exactly one.
            before_update: Called once, after the first gradient and before any weight changes. `step` raises what it raises.

        Raises TrainingError, with the weights as the last update left them, when the loss or the gradient is not finite and on_nonfinite is
        `stop`, and when memory runs out.
        """
        self.steps += 1
        grpo, device = self.settings.grpo, self.settings.device
        lr = learning_rate(self.steps, self._policy.optimizer)
        n_sequences = round(sum(sample.share for sample in samples if sample.n_sampled))
        totals = StepTotals(sum(sample.n_sampled for sample in samples), n_sequences)
        stored = before_update or (lambda: None)
        if totals.n_tokens == 0:
            stored()
            return StepResult(None, {"train/n_tokens": 0.0, "train/lr": lr}, [])

        first: list[Any] = [None] * len(micro_batches)
        done: list[Update] = []
        skipped: tuple[str, ...] = ()
        with out_of_memory(f"step {self.steps}"), seeded(grpo.seed, self.steps, self.rank, device):
            for _ in range(grpo.num_updates_per_batch):
                update = self._gradient(samples, micro_batches, totals, first)
                if not done:
                    stored()
                problem, names = not_finite(update, samples, self.steps)
                if problem is None:
                    self._update(lr)
                    done.append(update)
                    continue
                self.optimizer.zero_grad(set_to_none=True)
                if grpo.on_nonfinite != "skip":
                    raise problem
                skipped = names
                break
        return step_result(done, lr, len(samples), skipped, grpo.on_nonfinite)

    def _gradient(
        self,
        samples: Sequence[TrainSample],
        micro_batches: Sequence[Sequence[int]],
        totals: StepTotals,
        first: list[Any],
    ) -> Update:
        """Adds up the gradient of the step, clipped to its largest norm.

        Args:
            first: Parallel to micro_batches: what the first update found and the later ones need again, None before it.
        """
        update = Update()
        self.optimizer.zero_grad(set_to_none=True)
        for number, positions in enumerate(dealt(micro_batches, self.rank, self.world_size)):
            chosen = [samples[position] for position in positions or ()]
            inputs = self._inputs(chosen or [NOTHING], first[number], None if positions is None else update)
            first[number] = (inputs.old_logprobs, inputs.reference_logprobs)
            found = policy_loss(inputs, totals, self._loss, self._custom)
            loss = found.loss + self._router_loss(inputs, totals, update)
            (loss * self.world_size).backward()  # FSDP takes the mean over ranks
            if positions is not None:
                update.add(positions, chosen, inputs, found)
        norm = torch.nn.utils.clip_grad_norm_(self._trained().values(), self._policy.max_grad_norm)
        update.grad_norm = whole(norm).item()
        return merge(gathered(update, self.world_size))

    def _router_loss(self, inputs: LossInputs, totals: StepTotals, update: Update) -> Tensor | float:
        """The micro-batch's part of the router loss; its value and the experts' loads are added to the update's metrics."""
        n_tokens = int(inputs.mask.sum())
        if self._router is None or not n_tokens:
            return 0.0
        logits, self._scorer.router_logits = self._scorer.router_logits, ()
        loss = self._router.loss(logits)
        numbers = {"train/router_loss": float(loss.detach())} | self._router.loads(logits)
        update.tally.merge(TokenSums(0, {name: value * n_tokens for name, value in numbers.items()}))
        return self._router.coefficient * loss * (n_tokens / totals.n_tokens) if self._router.coefficient else 0.0

    def _update(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def _replay(self, samples: Sequence[TrainSample], layout: Layout, update: Update | None) -> None:
        """Makes the next pass go through the experts that the engine chose, where that is set; `moe/replayed` is the share of sampled tokens predicted that way."""
        if not self._policy.router_replay:
            return
        routes = routes_of(samples, layout.input_ids.shape[1], self.settings.device)
        self._scorer.routes = None if routes is None else routes.flatten(0, 1)
        if update is not None:
            known = 0 if routes is None else int((routes.flatten(0, 1)[layout.sources, 0, 0] != UNKNOWN).sum())
            update.tally.merge(TokenSums(0, {"moe/replayed": float(known)}))

    def _inputs(
        self, samples: Sequence[TrainSample], first: tuple[Tensor, Tensor | None] | None, update: Update | None = None
    ) -> LossInputs:
        """What the loss of a micro-batch is computed from.

        Args:
            first: The old and the reference's logprobs, None at the first update.
            update: Counts replayed routes; None does not count them.
        """
        batch = collate(samples, self.settings.device)
        layout = self._layout(samples, batch)
        self._scorer.routed = self._router is not None
        self._replay(samples, layout, update)
        with self._precision():
            found = self._scorer(
                layout, self._temperature, self._policy.logprob_chunk_tokens, self._loss.entropy_bonus != 0
            )
        # A scoring pass keeps and replays none.
        self._scorer.routed, self._scorer.routes = False, None
        logprobs, entropies = (spread(values, batch.mask) for values in found)
        if first is None:
            old = logprobs.detach() if self._loss.old_logprobs == "learner" else batch.engine_logprobs
            scored = self._score_reference(layout)
            first = old, None if scored is None else spread(scored, batch.mask)
        old, reference = first
        return LossInputs(
            logprobs, old, batch.engine_logprobs, batch.mask, batch.advantages, reference, entropies, batch.shares,
            batch.token_advantages, batch.teacher_logprobs,
        )  # fmt: skip

    def _score_reference(self, layout: Layout) -> Tensor | None:
        """[N] logprobs of the sampled tokens under the model that the run started from; None where it is not loaded."""
        if self._reference is None:
            return None
        with evaluating(self._reference.model), without_adapters(self._reference.model), self._precision():
            return self._reference(layout, self._temperature, self._policy.logprob_chunk_tokens)[0]

    def _precision(self) -> torch.autocast:
        """What is computed in, in the block."""
        device = self.settings.device.partition(":")[0]
        # Of several ranks, what is put together for a layer is bfloat16 already (split_model).
        rounded = self._policy.precision == "bfloat16" and self.world_size == 1
        return torch.autocast(device, torch.bfloat16, enabled=rounded)

    def _layout(self, samples: Sequence[TrainSample], batch: MicroBatch) -> Layout:
        """Rows that share prompts where that is cheaper, else a sequence a row."""
        rows = choose_rows(samples, self._cost) if self._cost is not None else None
        if rows is None:
            return plain_layout(batch.input_ids, batch.mask)
        return shared_layout(samples, rows).to(self.settings.device)

    def logprobs(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0
    ) -> list[list[float]]:
        """For each (prompt ids, token ids): the logprob of every token of the second."""
        samples = [
            TrainSample("", prompt, tokens, [1] * len(tokens), [0.0] * len(tokens)) for prompt, tokens in sequences
        ]
        found: dict[int, Tensor] = {}
        with out_of_memory("scoring"), evaluating(self.model), self._precision():
            for positions, batch, layout in self._scored(samples):
                scored, _ = self._scorer(layout, temperature, self._policy.logprob_chunk_tokens)
                if positions:
                    found |= dict(zip(positions, scored.split(batch.mask.sum(-1).tolist()), strict=True))
        return self._all({position: values.tolist() for position, values in found.items()})

    def reference_kl(self, samples: Sequence[TrainSample]) -> list[float]:
        """Parallel to samples: the sum over sampled tokens of logprob minus the reference's logprob (k1), at the rollouts' temperature.

        Raises ValueError when no reference is loaded: loss_fn.reference_policy_kl_penalty is 0.
        """
        if self._reference is None:
            raise ValueError("no reference is loaded, reference_policy_kl_penalty is 0")
        found: dict[int, float] = {}
        with out_of_memory("scoring"), evaluating(self.model), self._precision():
            for positions, batch, layout in self._scored(samples):
                now, _ = self._scorer(layout, self._temperature, self._policy.logprob_chunk_tokens)
                reference = self._score_reference(layout)
                assert reference is not None
                sums = spread(now.double() - reference.double(), batch.mask).sum(-1)
                found |= dict(zip(positions, sums.tolist()[: len(positions)], strict=True))
        return self._all(found)

    def _scored(self, samples: Sequence[TrainSample]) -> Iterator[tuple[list[int], MicroBatch, Layout]]:
        """This rank's micro-batches of samples that are only scored: positions, tensors, layout; no positions where other ranks have one more."""
        groups = [tuple(sample.prompt_ids) for sample in samples]
        batches = split_micro_batches([sample.length for sample in samples], SCORED_AT_ONCE, groups)
        for positions in dealt(batches, self.rank, self.world_size):
            chosen = [samples[position] for position in positions or ()] or [NOTHING]
            batch = collate(chosen, self.settings.device)
            yield positions or [], batch, self._layout(chosen, batch)

    def _all(self, found: dict[int, Any]) -> list[Any]:
        """What all ranks found, by position."""
        everything: dict[int, Any] = {}
        for part in gathered(found, self.world_size):
            everything |= part
        return [everything[position] for position in range(len(everything))]

    def save_weights(self, path: str, dtype: str | None = None) -> None:
        """Writes all tensors, adapters merged into them, under a model folder's names to one safetensors file, in place when it wrote it before; tied weights are written once.

        `dtype` is what the reader computes in (`bfloat16`, …); None keeps float32.
        """
        # One rank's parameters are copied straight from where they are; those of several are put together first.
        weights = own_weights(self.model, self._whole if self.world_size > 1 else lambda tensor: tensor)
        if self.rank == 0:
            write_weights(path, folder_weights(self.model, weights), dtype, self._dtypes.kept())

    def save_adapters(self, path: str) -> None:
        """Writes the adapters alone, in float32 and B scaled, under peft's names to one safetensors file, in place when it wrote it before."""
        weights = own_adapters(self.model, self._whole)
        if self.rank == 0:
            write_weights(path, weights)

    def share_weights(self, path: str) -> bool:
        """Moves the model's tensors into the file that save_weights writes, so that it copies nothing. False where they cannot live there (a GPU, adapters, several ranks, a model that is saved in another form)."""
        if self.settings.device != "cpu" or self._policy.lora is not None or self.world_size > 1:
            return False
        if is_converted(self.model):
            return False
        tensors: dict[str, Tensor] = dict(self.model.named_parameters()) | persistent_buffers(self.model)
        # In the order in which save_weights writes them.
        mapped_tensors({name: tensors[name] for name in folder_weights(self.model, tensors)}, path)
        return True

    def save_pretrained(self, folder: str) -> None:
        """Writes config and all tensors, adapters merged into them, as a model folder in the dtypes of the one that was opened (the tokenizer is the caller's), and the adapters beside them.

        Raises TrainingError where the folder does not hold them afterwards.
        """
        weights, problem = own_weights(self.model, self._whole), None
        lora = self._policy.lora
        adapters = own_adapters(self.model, self._whole) if lora is not None and lora.save_adapter else {}
        if self.rank == 0:
            try:
                write_folder(self.model, weights, self._dtypes, folder)
                if adapters:
                    write_adapters(folder, adapters)
            except TrainingError as error:
                problem = error
        problem = gathered(problem, self.world_size)[0]  # no rank is done before the folder is
        if problem is not None:
            raise problem

    def save_state(self, folder: str | Path) -> None:
        """Writes the whole state of training (state.py). A learner of the same model and settings that loads it continues bit for bit."""
        tensors = gather_state(self._trained(), self.optimizer, self._whole)
        if self.rank == 0:
            write_state(Path(folder), tensors, {"steps": self.steps})
        gathered(None, self.world_size)

    def load_state(self, folder: str | Path) -> None:
        """Takes over what save_state wrote, by any number of ranks; the model it was opened with is the one the run started from.

        Raises TrainingError when it is another model, or no state.
        """
        numbers = read_numbers(Path(folder))
        restore(Path(folder), self._trained(), self.optimizer, laid_like)
        self.steps = numbers["steps"]

    def _whole(self, tensor: Tensor) -> Tensor:
        """A parameter's values on the CPU of rank 0; the others take part and keep nothing."""
        return whole(tensor, keep=self.rank == 0)

    @property
    def _temperature(self) -> float:
        """What the rollouts were sampled with."""
        return self._policy.generation.temperature

    def _trained(self) -> dict[str, Any]:
        """The parameters that the optimizer changes, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}
