"""Direct preference optimisation: TRL's DPOTrainer, taught to score only what the policy said.

TRL takes a completion as one stretch of the policy's text. A trajectory is not: tool results stand between the turns. So the
rows arrive tokenised, each side with its mask, and the collator puts the masks where TRL has a completion mask of all ones.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from ..collect.chat import ChatFormat
from ..collect.models import need
from ..store.errors import ConfigError
from ..store.house import House
from ..transform.materialize import Pair, dpo_rows
from .lora import peft_config
from .offline import MakeTrainer, OnStep, Start, load_model, split_by_task, train_offline
from .offline_config import OfflineConfig, make_arguments, trl_arguments
from .section import Section
from .tokens import TokenRow, tokenize


class DpoAlgorithm(Section):
    """The loss, and how long."""

    reference_policy_kl_penalty: float = Field(default=0.1, gt=0)
    """Beta: how strongly the policy is held to where it started."""
    preference_average_log_probs: bool = False
    """Compare mean instead of summed log-probabilities."""
    preference_loss_weight: float = Field(default=1.0, gt=0)
    sft_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of the negative log-likelihood of the chosen side, which keeps it from falling."""
    max_num_epochs: float = Field(default=1, gt=0)
    max_num_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; None takes as many as the epochs have."""
    seed: int = 0


class DpoConfig(OfflineConfig):
    """Everything a DPO run depends on. The batch sizes count pairs."""

    dpo: DpoAlgorithm = Field(default_factory=DpoAlgorithm)


def train_dpo(house: House, config: DpoConfig, on_step: OnStep | None = None) -> dict[str, Any]:
    """Trains on a dataset of pairs and returns the row of the last checkpoint. Raises as train_sft."""

    def prepare(start: Start) -> tuple[dict[str, int], MakeTrainer]:
        tokenizer = start.chat.tokenizer
        pairs = list(dpo_rows(house, start.dataset))
        rows, counts = tokenize_pairs(pairs, start.chat, config.policy.max_total_sequence_length, start.context)
        train, validation = split_by_task([pair.chosen.task_id for pair in pairs], config.validation.share)

        def make_trainer(state: Path) -> Any:
            algorithm = config.dpo
            ours = trl_arguments(config, state, algorithm.max_num_steps, algorithm.max_num_epochs, algorithm.seed)
            # The reference is the model before its first step: its log-probabilities are computed once, ahead.
            ours |= {"beta": algorithm.reference_policy_kl_penalty, "precompute_ref_log_probs": True, **loss(algorithm)}
            args = make_arguments(need("trl").DPOConfig, ours, config.trl)
            return trajectory_trainer()(
                model=load_model(start.folder),
                args=args,
                train_dataset=dpo_dataset([rows[at] for at in train]),
                eval_dataset=dpo_dataset([rows[at] for at in validation]) if validation else None,
                processing_class=tokenizer,
                data_collator=trajectory_collator(tokenizer, args.max_length),
                peft_config=peft_config(config.policy.lora),
            )

        return counts | {"validation": 2 * len(validation)}, make_trainer

    return train_offline(house, "dpo", config, prepare, on_step)


def loss(algorithm: DpoAlgorithm) -> dict[str, Any]:
    """TRL's loss types and their weights."""
    types = ["sigmoid_norm" if algorithm.preference_average_log_probs else "sigmoid"]
    weights = [algorithm.preference_loss_weight]
    if algorithm.sft_loss_weight:
        types, weights = [*types, "sft"], [*weights, algorithm.sft_loss_weight]
    return {"loss_type": types, "loss_weights": weights}


def tokenize_pairs(
    pairs: list[Pair], chat: ChatFormat, max_length: int, context: int | None = None
) -> tuple[list[tuple[TokenRow, TokenRow]], dict[str, int]]:
    """(chosen, rejected) in tokens, and the counts of `tokenize` over both sides.

    Raises ConfigError as `tokenize`, and when the sides of a pair do not begin with the same prompt tokens.
    """
    rows, counts = tokenize(
        [side for pair in pairs for side in (pair.chosen, pair.rejected)], chat, max_length, context
    )
    sides = list(zip(rows[::2], rows[1::2], strict=True))
    apart = sum(chosen.prompt_ids != rejected.prompt_ids for chosen, rejected in sides)
    if apart:
        raise ConfigError(
            f"{apart} of {len(sides)} pairs have sides whose prompts differ in tokens.",
            "Build the dataset from rollouts of one tokenizer and template (`policies` or `runs`).",
        )
    return sides, counts


def dpo_dataset(rows: list[tuple[TokenRow, TokenRow]]) -> Any:
    """The pairs in TRL's tokenised columns, and a mask parallel to each side."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt_ids": [chosen.prompt_ids for chosen, _ in rows],
            "chosen_ids": [chosen.response_ids for chosen, _ in rows],
            "rejected_ids": [rejected.response_ids for _, rejected in rows],
            "chosen_mask": [chosen.mask for chosen, _ in rows],
            "rejected_mask": [rejected.mask for _, rejected in rows],
        }
    )


def trajectory_trainer() -> type:
    """TRL's DPOTrainer for rows that are tokenised already."""
    from trl.trainer.dpo_trainer import DPOTrainer

    class TrajectoryDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            self._signature_columns = [*dict.fromkeys([*self._signature_columns, "chosen_mask", "rejected_mask"])]

    return TrajectoryDPOTrainer


def trajectory_collator(tokenizer: Any, max_length: int | None) -> Any:
    """TRL's collator, with `completion_mask` 0 on tool results."""
    import torch
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class TrajectoryCollator(DataCollatorForPreference):
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super().torch_call(examples)
            masks = [
                [0] * len(example["prompt_ids"]) + example[side]
                for side in ("chosen_mask", "rejected_mask")
                for example in examples
            ]
            completion = torch.zeros_like(batch["completion_mask"])
            for number, mask in enumerate(masks):
                completion[number, : len(mask)] = torch.tensor(mask)
            batch["completion_mask"] = completion
            return batch

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return TrajectoryCollator(pad_token_id=pad, max_length=max_length)
