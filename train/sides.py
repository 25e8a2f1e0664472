"""Pairs in batches: a side may be several sequences, because a template may rewrite the history between its turns.

TRL's DPO loss sums the log-probabilities of one row for each side. A side's sequences therefore stand in one row of the batch, one
after the other, and the model gets them as rows of their own.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from .tokens import Side

SIDES = ("chosen", "rejected")
DPO_COLUMNS = tuple(f"{side}_{what}" for side in SIDES for what in ("ids", "mask", "lengths"))
LENGTHS = "lengths"
"""Key of a batch: the lengths of the sequences of each side, 0 where there are fewer; shape [2 × pairs, most sequences of a side]."""
_OF_TOKENS = ("log_probs", "entropy", "is_top1", "mean_logits", "log_sum_sq_probs")


def dpo_columns(chosen: Side, rejected: Side) -> dict[str, list[int]]:
    """The pair in columns of integers: of each side the token ids of its sequences one after the other, the parallel mask (1 on what is
    scored), and the lengths of the sequences."""
    columns: dict[str, list[int]] = {}
    for name, rows in zip(SIDES, (chosen, rejected), strict=True):
        columns[f"{name}_ids"] = [token for row in rows for token in row.prompt_ids + row.response_ids]
        columns[f"{name}_mask"] = [bit for row in rows for bit in [0] * len(row.prompt_ids) + row.mask]
        columns[f"{name}_lengths"] = [len(row) for row in rows]
    return columns


class PairCollator:
    """Pairs as TRL's DPO trainer takes them: chosen sides first, then the rejected ones, padded on the right."""

    def __init__(self, pad_token_id: Any) -> None:
        self._pad = pad_token_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        def stacked(what: str, padding: int) -> Any:
            rows = [torch.tensor(list(example[f"{side}_{what}"])) for side in SIDES for example in examples]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)

        ids, lengths = stacked("ids", self._pad), stacked("lengths", 0)
        real = torch.arange(ids.shape[1]) < lengths.sum(1, keepdim=True)
        batch = {
            "input_ids": ids,
            "attention_mask": real.long(),
            "completion_mask": stacked("mask", 0),
            LENGTHS: lengths,
        }
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples])
        return batch


class SidesModel:
    """A model as TRL's DPO loss calls it, for a batch of PairCollator: rows are sides, and each sequence is a row of the model's own.

    Attributes:
        outputs: The outputs of the last call.
    """

    def __init__(self, model: Any, lengths: Any) -> None:
        self._model, self._lengths = model, lengths.tolist()
        self.outputs: Any = None

    def __call__(self, input_ids: Any, attention_mask: Any, labels: Any, **options: Any) -> Any:
        """The model's outputs per token, [sides, tokens of a side - 1]."""
        if len(self._lengths[0]) == 1:
            self.outputs = self._model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **options)
            return self.outputs
        import torch

        def sequences(values: Any, padding: int) -> Any:
            parts = [part for row, lengths in zip(values, self._lengths, strict=True) for part in row[: sum(lengths)].split([n for n in lengths if n])]  # fmt: skip
            return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=padding)

        found = self._model(
            input_ids=sequences(input_ids, 0), attention_mask=sequences(attention_mask, 0), labels=sequences(labels, -100), **options
        )  # fmt: skip
        together = {name: self._sides(getattr(found, name), input_ids.shape[1]) for name in _OF_TOKENS if getattr(found, name, None) is not None}  # fmt: skip
        self.outputs = SimpleNamespace(**together, aux_loss=getattr(found, "aux_loss", None))
        return self.outputs

    def _sides(self, values: Any, width: int) -> Any:
        """Values of shape [sequences, tokens - 1] as [sides, width - 1]. The first token of a sequence is predicted from nothing: 0."""
        import torch

        rows, at = [], 0
        for lengths in self._lengths:
            parts: list[Any] = []
            for length in filter(None, lengths):
                parts += [values[at, : length - 1], values.new_zeros(1)]
                at += 1
            row = torch.cat(parts)[:-1]
            rows.append(torch.nn.functional.pad(row, (0, width - 1 - row.shape[0])))
        return torch.stack(rows)


def without(inputs: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The batch without some of its keys."""
    return {name: value for name, value in inputs.items() if name not in names}
