"""bfloat16, activation checkpointing and chunks: less time or memory, the same step. Adapters and the reference: what they leave alone."""

import copy
import math
from dataclasses import replace
from itertools import chain

import pytest
import torch
from rollhouse.base.errors import ConfigError
from rollhouse.train.config import LoraConfig
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.lora import adapter_layers
from safetensors.torch import load_file

from .settings import learner_config, loss_config

SETTINGS = learner_config(lr=1e-2)
LORA = learner_config(SETTINGS, lora=LoraConfig(rank=4, alpha=8), lr=5e-2)
WITH_KL = loss_config(reference_policy_kl_penalty=0.1)
SPLIT = [[0, 1], [2, 3]]


def weights(learner):
    return {name: parameter.detach().clone() for name, parameter in learner.model.named_parameters()}


def gradient(learner, samples):
    """Of one step, by name; the weights move by it."""
    learner.optimizer = torch.optim.SGD(learner._trained().values(), 1.0)
    before = weights(learner)
    result = learner.step(samples, SPLIT)
    return {name: before[name] - after for name, after in weights(learner).items()}, result


@pytest.mark.parametrize(
    "changed",
    [
        {"activation_checkpointing": True},
        {"logprob_chunk_tokens": 5},
        {"logprob_chunk_tokens": 1, "activation_checkpointing": True},
    ],
)
@pytest.mark.parametrize("lora", [None, LORA.policy.lora])
def test_what_saves_memory_changes_nothing(random_model, make_samples, changed, lora):
    settings = learner_config(SETTINGS, lora=lora, loss_fn=loss_config(entropy_bonus=0.01))
    first, second, *others = make_samples(4)
    samples = [
        replace(first, prompt_ids=second.prompt_ids * 4),
        replace(second, prompt_ids=second.prompt_ids * 4),
        *others,
    ]
    plain, result = gradient(Learner(str(random_model), settings), samples)
    learner = Learner(str(random_model), learner_config(settings, **changed))
    calls = []
    learner.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    saving, other = gradient(learner, samples)
    assert len(calls) == (
        4 if learner.settings.policy.activation_checkpointing else 2
    )  # computed again in the backward pass
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, saving[name], atol=1e-6, rtol=1e-5)
    assert other.metrics == pytest.approx(result.metrics, rel=1e-5, abs=1e-7)


def test_bfloat16_agrees_with_float32_on_the_same_weights(random_model, make_samples):
    samples = make_samples(64)
    split = [list(range(32)), list(range(32, 64))]
    exact = Learner(str(random_model), SETTINGS)
    rounded = Learner(str(random_model), learner_config(SETTINGS, precision="bfloat16"))
    pairs = [(sample.prompt_ids, sample.token_ids) for sample in samples]
    left, right = (torch.tensor([*chain(*learner.logprobs(pairs))]) for learner in (exact, rounded))
    ratio = (right - left).exp()
    assert abs(ratio.mean() - 1) < 1e-3 and 1e-4 < (ratio - 1).abs().max() < 0.1

    result = rounded.step(samples, split)
    assert result.metrics["train/ratio_mean"] == result.metrics["train/ratio_max"] == 1
    assert result.metrics["train/grad_norm"] == pytest.approx(
        exact.step(samples, split).metrics["train/grad_norm"], rel=0.02
    )
    states = rounded.optimizer.state.values()
    assert {parameter.dtype for parameter in rounded.model.parameters()} == {torch.float32}
    assert (
        {state["exp_avg"].dtype for state in states}
        == {state["exp_avg_sq"].dtype for state in states}
        == {torch.float32}
    )


def test_dropout_of_the_model_is_off_and_stays_in_its_configuration(random_model, make_samples, tmp_path):
    learner = Learner(str(random_model), SETTINGS)
    learner.model.config.attention_dropout = 0.5
    learner.save_pretrained(str(tmp_path / "model"))
    dropping = Learner(str(tmp_path / "model"), learner_config(SETTINGS, activation_checkpointing=True))
    assert dropping.model.training and dropping.model.config.attention_dropout == 0.5
    result = dropping.step(make_samples(4), SPLIT)
    assert result == replace(learner.step(make_samples(4), SPLIT), metrics=result.metrics)


def test_only_adapters_are_trained(random_model, make_samples):
    learner = Learner(str(random_model), LORA)
    before = weights(learner)
    result = learner.step(make_samples(4), SPLIT)
    changed = {name for name, tensor in weights(learner).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".lora_B." in name} != set()  # A moves once B is not 0
    assert len(learner.optimizer.state) == len(learner._trained()) == 2 * len(changed)
    assert all(parameter.grad is None for name, parameter in learner.model.named_parameters() if ".lora_" not in name)
    assert result.metrics["train/grad_norm"] > 0


def test_what_is_saved_is_merged_as_peft_merges(random_model, make_samples, tmp_path):
    learner = Learner(str(random_model), LORA)
    for seed in (1, 2):
        learner.step(make_samples(4, seed), SPLIT)
    before = weights(learner)
    learner.save_weights(str(tmp_path / "w.safetensors"))
    learner.save_pretrained(str(tmp_path / "model"))
    assert "attn_implementation" not in (tmp_path / "model" / "config.json").read_text()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(learner).items())

    peft_merged = copy.deepcopy(learner.model)
    for _, layer in adapter_layers(peft_merged):
        layer.merge()
    expected = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in peft_merged.named_parameters()
        if ".lora_" not in name
    }
    plain = Learner(str(tmp_path / "model"), SETTINGS)
    for found in (load_file(tmp_path / "w.safetensors"), weights(plain)):
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], atol=0, rtol=0)
    pair = ([1, 2, 3], [4, 5, 6, 7])
    assert plain.logprobs([pair])[0] == pytest.approx(learner.logprobs([pair])[0], abs=1e-5)
    untrained = Learner(str(random_model), SETTINGS)
    assert plain.logprobs([pair])[0] != pytest.approx(untrained.logprobs([pair])[0], abs=1e-2)


def test_adapters_go_on_from_their_state_bit_for_bit_dropout_included(random_model, make_samples, tmp_path):
    settings = learner_config(LORA, lora=LoraConfig(rank=4, alpha=8.0, dropout=0.3))
    learner = Learner(str(random_model), settings)
    learner.step(make_samples(4, 1), SPLIT)
    learner.save_state(tmp_path)
    assert all(".lora_" in name for name in load_file(tmp_path / "learner.safetensors"))
    result = learner.step(make_samples(4, 2), SPLIT)
    torch.manual_seed(99)
    again = Learner(str(random_model), settings)
    torch.rand(7)
    again.load_state(tmp_path)
    assert again.step(make_samples(4, 2), SPLIT) == result
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(learner).items())
    without = Learner(str(random_model), LORA)
    without.load_state(tmp_path)
    assert without.step(make_samples(4, 2), SPLIT).loss != result.loss  # it does drop out
    pair = ([1, 2, 3], [4, 5, 6, 7])
    assert learner.logprobs([pair]) == again.logprobs([pair])  # but not where it only scores


def test_layers_that_take_no_adapter_are_named(random_model):
    for names, why in (["nowhere"], "nowhere"), (["embed_tokens"], "Embedding, not a linear layer"):
        with pytest.raises(ConfigError, match=why):
            Learner(str(random_model), learner_config(LORA, lora=LoraConfig(target_modules=names)))


@pytest.mark.parametrize("settings", [SETTINGS, LORA])
def test_the_reference_is_the_model_of_before_any_step(random_model, make_samples, settings):
    samples = make_samples(4)
    settings = learner_config(settings, loss_fn=WITH_KL)
    learner = Learner(str(random_model), settings)
    assert learner.reference_kl(samples) == [0, 0, 0, 0]
    assert learner.step(samples, SPLIT).metrics["train/kl_ref"] == 0
    learner.step(samples, SPLIT)

    before = Learner(str(random_model), SETTINGS)
    pairs = [(sample.prompt_ids, sample.token_ids) for sample in samples]
    expected = [
        math.fsum(a - b for a, b, kept in zip(now, then, sample.loss_mask, strict=True) if kept)
        for now, then, sample in zip(learner.logprobs(pairs), before.logprobs(pairs), samples, strict=True)
    ]
    assert learner.reference_kl(samples) == pytest.approx(expected, abs=1e-4)
    assert max(map(abs, expected)) > 0.1
    assert learner.step(samples, SPLIT).metrics["train/kl_ref"] > 1e-4


def test_a_reference_is_loaded_only_where_the_loss_needs_one(random_model, make_samples):
    learner = Learner(str(random_model), SETTINGS)
    assert learner._reference is None
    with pytest.raises(ValueError, match="no reference"):
        learner.reference_kl(make_samples(1))
    own = Learner(str(random_model), learner_config(LORA, loss_fn=WITH_KL))
    assert own._reference is own._scorer


def test_the_kl_pulls_back_where_no_advantage_does(random_model, make_samples):
    learner = Learner(str(random_model), learner_config(SETTINGS, loss_fn=WITH_KL))
    samples = make_samples(4)
    for _ in range(2):
        learner.step(samples, SPLIT)
    flat = [replace(sample, advantage=0.0) for sample in samples]
    far = sum(map(abs, learner.reference_kl(samples)))
    for _ in range(5):
        assert learner.step(flat, SPLIT).metrics["train/grad_norm"] > 0
    assert sum(map(abs, learner.reference_kl(samples))) < far
