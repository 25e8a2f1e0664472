"""Loss, gradient, correction weights and advantages against TRL's own GRPOTrainer on the same tensors, model forward included."""

import inspect
from dataclasses import replace

import pytest
import torch
from rollhouse.train.grpo.advantages import group_advantages
from rollhouse.train.grpo.learner.batch import collate
from rollhouse.train.grpo.learner.logprobs import token_logprobs
from rollhouse.train.grpo.loss import LossInputs, StepTotals, correction_weights, policy_loss

from .settings import loss_config

LENGTH = 50
OURS = loss_config(ratio_clip_min=0.2, ratio_clip_max=0.28, use_importance_sampling_correction=False)
THEIRS = {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0, "max_completion_length": LENGTH}

PAIRS = {
    "token mean": (OURS, {}),
    "sequence mean": (loss_config(OURS, token_level_loss=False), {"loss_type": "grpo"}),
    # Its divisor is the micro-batch's own count, so the two agree where there is one micro-batch.
    "token mean, local": (OURS, {"loss_type": "bnpo"}),
    "fixed length": (loss_config(OURS, fixed_length=LENGTH), {"loss_type": "dr_grpo"}),
    # TRL caps the ratio at epsilon_high itself and has no lower bound.
    "cispo": (loss_config(OURS, objective="cispo", ratio_clip_min=1.0), {"loss_type": "cispo", "epsilon_high": 1.28}),
    "gspo": (
        loss_config(
            OURS,
            sequence_level_importance_ratios=True,
            token_level_loss=False,
            ratio_clip_min=0.03,
            ratio_clip_max=0.04,
        ),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    ),
    "gspo by tokens": (
        loss_config(OURS, sequence_level_importance_ratios=True),
        {"importance_sampling_level": "sequence"},
    ),
    # A cap of the ratio above the clip acts on negative advantages only.
    "dual clip": (loss_config(OURS, ratio_clip_c=1.4), {"delta": 1.4}),
    "kl": (loss_config(OURS, reference_policy_kl_penalty=0.2, reference_policy_kl_type="k3"), {"beta": 0.2}),
    "kl, bare": (
        loss_config(OURS, reference_policy_kl_penalty=0.2, use_bias_correction_kl=False),
        {"beta": 0.2, "use_bias_correction_kl": False},
    ),
    "kl, sequence mean": (
        loss_config(OURS, reference_policy_kl_penalty=0.2, reference_policy_kl_type="k3", token_level_loss=False),
        {"beta": 0.2, "loss_type": "grpo"},
    ),
    "cispo with kl": (
        loss_config(
            OURS, objective="cispo", ratio_clip_min=1.0, reference_policy_kl_penalty=0.2, reference_policy_kl_type="k3"
        ),
        {"loss_type": "cispo", "epsilon_high": 1.28, "beta": 0.2},
    ),
    "tis": (
        loss_config(
            OURS,
            use_importance_sampling_correction=True,
            truncated_importance_sampling_type="tis",
            truncated_importance_sampling_ratio=1.3,
        ),
        {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 1.3},
    ),
    "icepop": (
        loss_config(
            OURS,
            use_importance_sampling_correction=True,
            truncated_importance_sampling_type="icepop",
            truncated_importance_sampling_ratio_min=0.7,
            truncated_importance_sampling_ratio=1.3,
            reference_policy_kl_penalty=0.2,
        ),
        {
            "vllm_importance_sampling_mode": "token_mask",
            "vllm_importance_sampling_clip_min": 0.7,
            "vllm_importance_sampling_clip_max": 1.3,
            "beta": 0.2,
        },
    ),
}


@pytest.fixture
def own_model(random_model):
    """The same weights as the trainer's, in a model of our own: how we compute attention must not become how TRL does."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def trl_trainer(random_model, tmp_path_factory):
    """`make(**options)`: a real GRPOTrainer over the random model, one process, which generates and scores what it is given."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    # Private API: this fails when TRL changes it, and does not compare something else.
    assert list(inspect.signature(GRPOTrainer._compute_loss).parameters) == ["self", "model", "inputs"]
    assert list(inspect.signature(GRPOTrainer._generate).parameters) == ["self", "prompts"]
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "a": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    folder = str(tmp_path_factory.mktemp("trl"))

    def make(**options):
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=folder,
                num_generations=2,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=1,
                steps_per_generation=1,
                use_cpu=True,
                bf16=False,
                report_to="none",
                **(THEIRS | options),
            ),
            train_dataset=Dataset.from_list([{"prompt": "a"}] * 2),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def on_their_side(samples, matrix):
    """A [B, T] matrix of ours (over predicted positions) as TRL lays it out: a column a completion token."""
    found = torch.zeros(len(samples), max(len(sample.token_ids) for sample in samples), dtype=matrix.dtype)
    for row, sample in enumerate(samples):
        start, n = len(sample.prompt_ids) - 1, len(sample.token_ids)
        found[row, :n] = matrix[row, start : start + n]
    return found


def trl_inputs(samples, inputs):
    """The same batch as TRL wants it: prompts padded on the left, completions on the right, tool tokens in tool_mask."""
    n_prompt = max(len(sample.prompt_ids) for sample in samples)
    completion_ids = torch.zeros(len(samples), max(len(sample.token_ids) for sample in samples), dtype=torch.int64)
    completion_mask, prompt_ids = (
        torch.zeros_like(completion_ids),
        torch.zeros(len(samples), n_prompt, dtype=torch.int64),
    )
    prompt_mask = torch.zeros_like(prompt_ids)
    for row, sample in enumerate(samples):
        p, r = len(sample.prompt_ids), len(sample.token_ids)
        prompt_ids[row, n_prompt - p :], prompt_mask[row, n_prompt - p :] = torch.tensor(sample.prompt_ids), 1
        completion_ids[row, :r], completion_mask[row, :r] = torch.tensor(sample.token_ids), 1
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "tool_mask": on_their_side(samples, inputs.mask.long()),
        "old_per_token_logps": on_their_side(samples, inputs.old_logprobs),
        "ref_per_token_logps": on_their_side(samples, inputs.reference_logprobs),
        "advantages": inputs.advantages,
        "num_items_in_batch": inputs.mask.sum(),
    }


def off_policy(model, samples, seed=0) -> LossInputs:
    """The model's logprobs of the samples with gradient; old, engine and reference near them, so that bounds act on some tokens and not on most."""
    batch = collate(samples)
    logprobs, _ = token_logprobs(model, batch.input_ids, batch.mask)
    draw = torch.Generator().manual_seed(seed)
    old, engine, reference = (
        torch.where(batch.mask, logprobs.detach() + scale * torch.randn(logprobs.shape, generator=draw), 0.0)
        for scale in (0.3, 0.4, 0.3)
    )
    return LossInputs(logprobs, old, engine, batch.mask, batch.advantages, reference)


def totals_of(mask):
    return StepTotals(int(mask.sum()), int(mask.any(-1).sum()))


@pytest.mark.parametrize(("ours", "options"), PAIRS.values(), ids=PAIRS.keys())
def test_loss_and_gradient_equal_trl(trl_trainer, own_model, make_samples, ours, options):
    trainer, samples = trl_trainer(**options), make_samples(6, seed=5)
    inputs = off_policy(own_model, samples)
    theirs_in = trl_inputs(samples, inputs)
    if ours.use_importance_sampling_correction:
        trainer.use_vllm = True
        bounds = (ours.truncated_importance_sampling_ratio_min, ours.truncated_importance_sampling_ratio)
        weights, _ = correction_weights(
            inputs.old_logprobs, inputs.engine_logprobs, inputs.mask, ours.truncated_importance_sampling_type, *bounds
        )
        theirs_in["importance_sampling_ratio"] = on_their_side(samples, weights)
    theirs = trainer._compute_loss(trainer.model, theirs_in)
    their_gradients = torch.autograd.grad(theirs, list(trainer.model.parameters()))

    found = policy_loss(inputs, totals_of(inputs.mask), ours)
    our_gradients = torch.autograd.grad(found.loss, list(own_model.parameters()))
    assert found.loss.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)
    largest = max(gradient.abs().max().item() for gradient in their_gradients)
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6 * max(1.0, largest))

    logged = trainer._metrics["eval"]  # as the model is in evaluation mode
    if ours.objective == "clip" and not ours.sequence_level_importance_ratios:
        for bound in ("low", "high"):
            share = found.terms[f"clipped_{bound}"][inputs.mask].double().mean().item()
            assert logged[f"clip_ratio/{bound}_mean"] == [pytest.approx(share, rel=1e-5)]
            assert ours.ratio_clip_c or 0 < share < 1
    if ours.reference_policy_kl_penalty:
        weight = found.terms["ratio"] if ours.use_bias_correction_kl else torch.ones_like(inputs.old_logprobs)
        kl = (weight * found.terms["kl_k3"])[inputs.mask].mean().item()
        assert logged["kl"] == [pytest.approx(kl, rel=1e-5)]


@pytest.mark.parametrize(
    ("kind", "mode", "low", "high", "scale"),
    [
        ("tis", "token_truncate", 0.0, 1.3, "group"),
        ("tis", "token_truncate", 0.8, 1.3, "none"),
        ("icepop", "token_mask", 0.7, 1.3, "group"),
    ],
)
def test_a_whole_batch_equals_trl_from_rewards_to_loss(
    trl_trainer, own_model, make_samples, kind, mode, low, high, scale
):
    """TRL computes old logprobs, correction weights and advantages itself, from what we say was sampled and rewarded."""
    trainer = trl_trainer(
        scale_rewards=scale,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )
    samples, rewards = make_samples(6, seed=7), [1.0, 0.0, 0.25, 1.0, 0.5, 0.5]
    batch = collate(samples)
    now, _ = token_logprobs(own_model, batch.input_ids, batch.mask)
    noise = 0.4 * torch.randn(now.shape, generator=torch.Generator().manual_seed(1))
    engine = torch.where(batch.mask, now.detach() + noise, 0.0)

    lengths = [len(sample.token_ids) for sample in samples]
    reported = [row[:n].tolist() for row, n in zip(on_their_side(samples, engine), lengths, strict=True)]
    sampled = [list(sample.prompt_ids) for sample in samples], [list(sample.token_ids) for sample in samples]
    trainer._generate = lambda prompts: (*sampled, [s.loss_mask for s in samples], ["a"] * 6, reported, {}, None, [])
    trainer._calculate_rewards = lambda *_: torch.tensor(rewards).unsqueeze(-1)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    theirs_in = trainer._generate_and_score_completions([{"prompt": "a"} for _ in samples])

    weights, masked = correction_weights(now.detach(), engine, batch.mask, kind, low, high)
    assert masked.any() == (kind == "icepop") and (weights[batch.mask] != 1).any()
    theirs = theirs_in["importance_sampling_ratio"][theirs_in["tool_mask"] * theirs_in["completion_mask"] == 1]
    torch.testing.assert_close(on_their_side(samples, weights)[on_their_side(samples, batch.mask)], theirs)
    groups, normalize = torch.tensor([0, 0, 1, 1, 2, 2]), scale == "group"
    found = group_advantages(torch.tensor(rewards), groups, normalize=normalize, eps=1e-4)
    torch.testing.assert_close(found.values_B.float(), theirs_in["advantages"])
    assert theirs_in["num_items_in_batch"] == batch.mask.sum()

    inputs = LossInputs(now, now.detach(), engine, batch.mask, found.values_B.float())
    settings = loss_config(
        OURS,
        use_importance_sampling_correction=True,
        truncated_importance_sampling_type=kind,
        truncated_importance_sampling_ratio_min=low,
        truncated_importance_sampling_ratio=high,
    )
    ours = policy_loss(inputs, totals_of(batch.mask), settings).loss
    theirs = trainer._compute_loss(trainer.model, theirs_in)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)


def test_edge_3_a_fully_masked_sequence_is_not_counted_where_trl_counts_it(trl_trainer, own_model, make_samples):
    samples = make_samples(3, seed=5)
    samples[1] = replace(samples[1], loss_mask=[0] * len(samples[1].token_ids), engine_logprobs=[])
    for mean, loss_type in (({"token_level_loss": False}, "grpo"), ({"fixed_length": LENGTH}, "dr_grpo")):
        trainer = trl_trainer(loss_type=loss_type)
        with torch.no_grad():
            inputs = off_policy(own_model, samples)
            theirs = trainer._compute_loss(trainer.model, trl_inputs(samples, inputs))
        settings = loss_config(OURS, **mean)
        ours = policy_loss(inputs, totals_of(inputs.mask), settings).loss
        assert ours.item() * 2 == pytest.approx(theirs.item() * 3, rel=1e-5)
