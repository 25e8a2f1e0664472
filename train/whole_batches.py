"""TRL's trainers made independent of how a batch is divided: over micro-batches, over processes, and in the last, incomplete batch.

- Every process has as many micro-batches as the others. Where rows are missing, fillers stand that weigh nothing; no row is repeated.
- A metric is a sum over rows or tokens divided by their number, over all micro-batches and processes of the step or validation.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

FILLER = "filler"
"""Key of an example that stands where a process has no row."""
N_ROWS = "n_rows"
"""Key of a batch: its number of rows without fillers, a tensor of shape [1]."""
_LOSS = "loss per "


class Filled:
    """A dataset of any length, followed by fillers (copies of its first row)."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return dict(self.rows[place]) if place < len(self.rows) else {**self.rows[0], FILLER: True}


class FilledOrder:
    """A sampler: the rows in order or shuffled anew in every epoch, then fillers up to a multiple of `multiple`."""

    def __init__(self, n_rows: int, multiple: int, seed: int | None) -> None:
        """`seed` None keeps the order. Otherwise the order of an epoch is that of accelerate's own sampler for one process."""
        self._n_rows, self._seed, self._epoch = n_rows, seed, 0
        self._n_fillers = -n_rows % multiple

    def __len__(self) -> int:
        return self._n_rows + self._n_fillers

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        import torch

        if self._seed is None:
            yield from range(self._n_rows)
        else:
            generator = torch.Generator().manual_seed(self._seed + self._epoch)
            yield from torch.randperm(self._n_rows, generator=generator).tolist()
        yield from range(self._n_rows, len(self))
        self._epoch += 1


class FillingCollator:
    """Another collator without the fillers. A batch of fillers alone is one row, which the trainer gives no weight."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        rows = [example for example in examples if FILLER not in example]
        some = rows or [{name: value for name, value in examples[0].items() if name != FILLER}]
        return {**self._collator(some), N_ROWS: torch.tensor([len(rows)])}


class _Local:
    """An accelerator that gathers nothing: TRL then computes the metrics of this process's micro-batch alone."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return (lambda value, *_, **__: value) if name.startswith("gather") else getattr(self._accelerator, name)


def _n_tokens(inputs: Mapping[str, Any]) -> int:
    return int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()


def whole_batches(base: type) -> Any:
    """A subclass of TRL's SFTTrainer or DPOTrainer. A subclass of that implements `mean_losses` and `weights_of`."""

    class WholeBatches(base):
        loss_is_scaled_for_ga = True

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.data_collator = FillingCollator(self.data_collator)
            self._sums: dict[str, dict[str, list[float]]] = {mode: defaultdict(lambda: [0.0, 0.0]) for mode in ("train", "eval")}  # fmt: skip
            self._step: dict[str, float] = {}
            self._tokens_here = 0.0

        # -- rows ------------------------------------------------------------------------------------------------------

        def _get_dataloader(self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, is_training: bool = False, dataloader_key: str | None = None) -> Any:  # fmt: skip
            together = self.accelerator.num_processes
            shuffled = is_training and self.args.train_sampling_strategy != "sequential"
            order = FilledOrder(len(dataset), batch_size * together if together > 1 else 1, self.args.data_seed if shuffled else None)  # fmt: skip
            rows = Filled(self._remove_unused_columns(dataset, description=description))
            return super()._get_dataloader(rows, description, batch_size, lambda _: order, is_training, dataloader_key)

        def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
            return data_collator  # the rows have only the columns that are used, and a filler its key

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
            batches, n_items = super().get_batch_samples(epoch_iterator, num_batches, device)
            counts: dict[str, float] = defaultdict(float)
            for batch in batches:
                for name, weight in self.weights_of(batch).items():
                    counts[name] += weight
            self._step = self._total(counts)
            return batches, n_items

        # -- losses and metrics ----------------------------------------------------------------------------------------

        def weights_of(self, inputs: Mapping[str, Any]) -> dict[str, float]:
            """Unit (`rows`, …) → number of them in a micro-batch, fillers not counted."""
            raise NotImplementedError

        def mean_losses(self, model: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
            """Unit → mean loss over the units of a micro-batch, and the unit of each of TRL's metrics that is not a mean over rows."""
            raise NotImplementedError

        def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:  # fmt: skip
            mode = "train" if self.model.training else "eval"
            here = self.weights_of(inputs)
            inputs = {name: value for name, value in inputs.items() if name != N_ROWS}
            with self._locally():
                means, units = self.mean_losses(model, inputs)
            for name, values in self._metrics[mode].items():
                if name != "num_tokens" and values:
                    self._add(mode, name, values[-1], here[units.get(name, "rows")])
            self._metrics[mode].clear()
            if mode == "eval":
                for unit, mean in means.items():
                    self._add(mode, f"{_LOSS}{unit}", mean, here[unit])
                return sum(means.values())
            self._tokens_here += _n_tokens(inputs) if here["rows"] else 0
            # Data parallelism averages gradients over the processes.
            processes = self.accelerator.num_processes
            return sum(mean * (processes * here[unit] / max(self._step[unit], 1)) for unit, mean in means.items())

        @contextmanager
        def _locally(self) -> Iterator[None]:
            accelerator, tokens = self.accelerator, self._total_train_tokens
            self.accelerator = _Local(accelerator)
            try:
                yield
            finally:
                self.accelerator, self._total_train_tokens = accelerator, tokens  # which log() adds for all processes

        def _add(self, mode: str, name: str, mean: Any, weight: float) -> None:
            entry = self._sums[mode][name]
            if weight:
                entry[0] += float(mean) * weight
                entry[1] += weight

        def _total(self, here: Mapping[str, float]) -> dict[str, float]:
            """The sums over all processes."""
            if self.accelerator.num_processes == 1:
                return dict(here)
            from accelerate.utils import gather_object

            total: dict[str, float] = defaultdict(float)
            for one in gather_object([dict(here)]):
                for name, value in one.items():
                    total[name] += value
            return dict(total)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            mode = "train" if self.model.training else "eval"
            sums, self._sums[mode] = self._sums[mode], defaultdict(lambda: [0.0, 0.0])
            if sums or any(name in logs for name in ("loss", "eval_loss")):
                pairs = {f"{name}\0{at}": entry[at] for name, entry in sums.items() for at in (0, 1)}
                found = self._total({**pairs, "tokens": self._tokens_here})
                self._tokens_here = 0.0
                self._total_train_tokens += found.pop("tokens")
                means = {name: found[f"{name}\0000"] / (found[f"{name}\0001"] or 1.0) for name in sums}
                if mode == "eval":
                    logs["eval_loss"] = sum(means.pop(name) for name in list(means) if name.startswith(_LOSS))
                    logs.pop("eval_steps_per_second", None)  # of micro-batches
                self._metrics[mode].update({name: [value] for name, value in means.items()})
                self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
            if mode == "train" and self.state.global_step:
                self.state.epoch = self._epochs_done()
            super().log(logs, start_time)

        def _epochs_done(self) -> float:
            """Passes over the rows so far; transformers counts micro-batches."""
            n_rows = len(self.train_dataset)
            batch = (
                self.args.per_device_train_batch_size
                * self.args.gradient_accumulation_steps
                * self.accelerator.num_processes
            )
            epochs, within = divmod(self.state.global_step - 1, math.ceil(n_rows / batch))
            return epochs + min((within + 1) * batch, n_rows) / n_rows

        def _load_callback_state(self) -> None:
            super()._load_callback_state()
            before = [entry["num_tokens"] for entry in self.state.log_history if "num_tokens" in entry]
            self._total_train_tokens = before[-1] if before else 0

    return WholeBatches
