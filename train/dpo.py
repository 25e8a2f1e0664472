"""Direct preference optimisation with TRL's DPOTrainer, scoring only the tokens of the policy.

TRL treats a completion as one text of the policy. In a trajectory tool results stand between the turns. The rows are therefore
tokenised here, each side with its mask, and the collator puts these masks in the place of TRL's completion mask of all ones.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..base.config import Flag, Section
from ..base.errors import ConfigError
from ..base.packages import need
from ..store.lance_store import LanceStore
from ..transform.materialize import Pair, iter_dpo
from .lora import peft_config
from .offline import MakeTrainer, OnStep, Start, load_model, train_offline
from .offline_config import OfflineConfig
from .row_files import write_rows
from .tokens import Tokenizing, TokenRow
from .trl_setup import make_arguments, trl_arguments

DPO_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "chosen_mask", "rejected_mask")


class DpoAlgorithm(Section):
    """Settings of the section `dpo`: the loss and the length of the training."""

    reference_policy_kl_penalty: float = Field(default=0.1, gt=0)
    """Beta: how strongly the policy is kept near the model it started from."""
    preference_average_log_probs: bool = False
    """Compare mean instead of summed log-probabilities."""
    preference_loss_weight: float = Field(default=1.0, gt=0)
    """Weight of the preference loss."""
    reference_free: bool = False
    """Use the policy's own log-probabilities instead of their difference to the reference's. With `preference_average_log_probs` this is the loss of SimPO (Meng et al. 2024) without its margin."""
    sft_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of the negative log-likelihood of the chosen side, which keeps its likelihood from falling."""
    max_num_epochs: Annotated[float, Flag("Training")] = Field(default=1, gt=0)
    """Passes over the dataset."""
    max_num_steps: Annotated[int | None, Flag("Training")] = Field(default=None, ge=1)
    """Optimizer steps. Default: those of max_num_epochs."""
    seed: Annotated[int, Flag("Training")] = 0
    """Seed of the training."""


class DpoConfig(OfflineConfig):
    """The configuration of `train dpo`. Batch sizes count pairs."""

    dpo: DpoAlgorithm = Field(default_factory=DpoAlgorithm)


def train_dpo(store: LanceStore, config: DpoConfig, on_step: OnStep | None = None) -> dict[str, Any]:
    """Trains on a dataset of pairs and returns the row of the last checkpoint. Arguments, result and errors are those of train_sft."""

    def prepare(start: Start, scratch: Path) -> tuple[dict[str, int], MakeTrainer]:
        tokenizer = start.chat.tokenizer
        tokens = Tokenizing(start.chat, config.policy.max_total_sequence_length, start.context)
        pairs = iter_dpo(store, start.dataset)
        rows = ((pair.chosen.task_id, dpo_columns(*tokenize_pair(pair, tokens))) for pair in pairs)
        train, validation = write_rows(rows, scratch, DPO_COLUMNS, config.validation.share)
        counts = check_pairs(tokens)

        def make_trainer(state: Path) -> Any:
            algorithm = config.dpo
            ours = trl_arguments(config, state, algorithm.max_num_steps, algorithm.max_num_epochs, algorithm.seed)
            # The reference is the model before its first step, so its log-probabilities are computed once, before training.
            ours |= {"beta": algorithm.reference_policy_kl_penalty, "precompute_ref_log_probs": True, **loss(algorithm)}
            args = make_arguments(need("trl").DPOConfig, ours, config.trl)
            model = load_model(start.folder)
            return trajectory_trainer(algorithm.reference_free)(
                model=model,
                args=args,
                train_dataset=train,
                eval_dataset=validation,
                processing_class=tokenizer,
                data_collator=trajectory_collator(tokenizer, args.max_length),
                peft_config=peft_config(config.policy.lora, model),
            )

        return counts | {"validation": 2 * len(validation or ())}, make_trainer

    return train_offline(store, "dpo", config, prepare, on_step)


def loss(algorithm: DpoAlgorithm) -> dict[str, Any]:
    """TRL's loss types and their weights."""
    types = ["sigmoid_norm" if algorithm.preference_average_log_probs else "sigmoid"]
    weights = [algorithm.preference_loss_weight]
    if algorithm.sft_loss_weight:
        types, weights = [*types, "sft"], [*weights, algorithm.sft_loss_weight]
    return {"loss_type": types, "loss_weights": weights}


def tokenize_pair(pair: Pair, tokens: Tokenizing) -> tuple[TokenRow, TokenRow]:
    """(chosen, rejected) in tokens. Pairs whose sides have different prompt tokens are counted, for check_pairs."""
    chosen, rejected = tokens.row(pair.chosen), tokens.row(pair.rejected)
    tokens.counts["prompts_apart"] += chosen.prompt_ids != rejected.prompt_ids
    return chosen, rejected


def check_pairs(tokens: Tokenizing) -> dict[str, int]:
    """The counts of `Tokenizing.check` over both sides. Raises as `Tokenizing.check`, and ConfigError when the prompts of a pair differ."""
    counts, apart = tokens.check(), tokens.counts["prompts_apart"]
    if apart:
        raise ConfigError(
            f"{apart} of {(counts['sampled'] + counts['rendered']) // 2} pairs have sides whose prompts have different tokens.",
            "Build the dataset from rollouts of one tokenizer and template (options `policies` or `runs`).",
        )
    return counts


def dpo_columns(chosen: TokenRow, rejected: TokenRow) -> dict[str, list[int]]:
    """The pair in TRL's tokenised columns, with a mask parallel to the tokens of each side."""
    return {
        "prompt_ids": chosen.prompt_ids,
        "chosen_ids": chosen.response_ids,
        "rejected_ids": rejected.response_ids,
        "chosen_mask": chosen.mask,
        "rejected_mask": rejected.mask,
    }


def trajectory_trainer(reference_free: bool = False) -> type:
    """TRL's DPOTrainer for tokenised rows. With `reference_free` the reference log-probabilities are 0 and are not computed."""
    import torch
    from trl.trainer.dpo_trainer import DPOTrainer

    class TrajectoryDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
            if not reference_free:
                return super().compute_ref_log_probs(model, inputs)
            pairs = inputs["input_ids"].shape[0] // 2
            return torch.zeros(pairs), torch.zeros(pairs)

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
