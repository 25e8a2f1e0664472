"""The whole loss, model forward included, against TRL's own GRPOTrainer on the same tensors."""

import inspect

import pytest
import torch
from rollhouse.train.grpo.batch import collate
from rollhouse.train.grpo.logprobs import token_logprobs
from rollhouse.train.grpo.loss import clipped_loss, sequence_mean, token_mean, truncated_importance_weights

LOW, HIGH = 0.2, 0.28


@pytest.fixture(scope="module")
def trl_trainer(random_model, tmp_path_factory):
    """`make(loss_type, correction)`: a real GRPOTrainer over the random model, one process, no generation."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    # Private API: when TRL changes it, this says so rather than comparing something else.
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == ["self", "model", "inputs"]
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "a": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")

    def make(loss_type):
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(tmp_path_factory.mktemp("trl")),
                loss_type=loss_type,
                beta=0.0,
                epsilon=LOW,
                epsilon_high=HIGH,
                num_generations=2,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=1,
                steps_per_generation=1,
                use_cpu=True,
                bf16=False,
                report_to="none",
            ),
            train_dataset=Dataset.from_list([{"prompt": "a"}] * 2),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def trl_inputs(samples, mask, old):
    """The same batch as TRL wants it: prompts padded on the left, completions on the right, tool tokens in tool_mask."""
    n_prompt = max(len(sample.prompt_ids) for sample in samples)
    n_rest = max(len(sample.token_ids) for sample in samples)
    inputs = {
        "prompt_ids": torch.zeros(len(samples), n_prompt, dtype=torch.int64),
        "prompt_mask": torch.zeros(len(samples), n_prompt, dtype=torch.int64),
        "completion_ids": torch.zeros(len(samples), n_rest, dtype=torch.int64),
        "completion_mask": torch.zeros(len(samples), n_rest, dtype=torch.int64),
        "tool_mask": torch.zeros(len(samples), n_rest, dtype=torch.int64),
        "old_per_token_logps": torch.zeros(len(samples), n_rest),
        "advantages": torch.tensor([sample.advantage for sample in samples]),
        "num_items_in_batch": mask.sum(),
    }
    for row, sample in enumerate(samples):
        p, r = len(sample.prompt_ids), len(sample.token_ids)
        inputs["prompt_ids"][row, n_prompt - p :] = torch.tensor(sample.prompt_ids)
        inputs["prompt_mask"][row, n_prompt - p :] = 1
        inputs["completion_ids"][row, :r] = torch.tensor(sample.token_ids)
        inputs["completion_mask"][row, :r] = 1
        inputs["tool_mask"][row, :r] = torch.tensor(sample.loss_mask)
        inputs["old_per_token_logps"][row, :r] = old[row, p - 1 : p - 1 + r]
    return inputs


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_loss_and_gradient_equal_trl(trl_trainer, make_samples, loss_type, corrected):
    trainer, samples = trl_trainer(loss_type), make_samples(6, seed=5)
    model, batch = trainer.model, collate(samples)
    # Old logprobs near the model's, so that some ratios are clipped on each side and most are not.
    with torch.no_grad():
        now, _ = token_logprobs(model, batch.input_ids, batch.mask)
    noise = torch.randn(now.shape, generator=torch.Generator().manual_seed(0))
    old = torch.where(batch.mask, now + 0.3 * noise, 0.0)
    engine = torch.where(batch.mask, old + 0.5 * noise.flip(-1), 0.0)
    weights = truncated_importance_weights(old, engine, cap=1.3)

    inputs = trl_inputs(samples, batch.mask, old)
    if corrected:
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        inputs["importance_sampling_ratio"] = torch.ones_like(inputs["old_per_token_logps"])
        for row, sample in enumerate(samples):
            p, r = len(sample.prompt_ids), len(sample.token_ids)
            inputs["importance_sampling_ratio"][row, :r] = weights[row, p - 1 : p - 1 + r]
    theirs = trainer._compute_loss(model, inputs)
    their_gradients = torch.autograd.grad(theirs, list(model.parameters()))

    logprobs, _ = token_logprobs(model, batch.input_ids, batch.mask)
    loss = clipped_loss(logprobs, old, batch.advantages, LOW, HIGH)
    loss = loss * weights if corrected else loss
    if loss_type == "dapo":
        ours = token_mean(loss, batch.mask, int(batch.mask.sum()))
    else:
        ours = sequence_mean(loss, batch.mask, len(samples))
    our_gradients = torch.autograd.grad(ours, list(model.parameters()))

    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)
    largest = max(gradient.abs().max().item() for gradient in their_gradients)
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6 * max(1.0, largest))


def test_a_fully_masked_sequence_is_not_counted_where_trl_counts_it(trl_trainer, make_samples):
    from dataclasses import replace

    samples = make_samples(3, seed=5)
    samples[1] = replace(samples[1], loss_mask=[0] * len(samples[1].token_ids), engine_logprobs=[])
    trainer, batch = trl_trainer("grpo"), collate(samples)
    with torch.no_grad():
        logprobs, _ = token_logprobs(trainer.model, batch.input_ids, batch.mask)
        theirs = trainer._compute_loss(trainer.model, trl_inputs(samples, batch.mask, logprobs))
    ours = sequence_mean(clipped_loss(logprobs, logprobs, batch.advantages, LOW, HIGH), batch.mask, 2)
    assert ours.item() * 2 == pytest.approx(theirs.item() * 3, rel=1e-5)
