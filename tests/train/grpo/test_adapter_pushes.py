"""Adapters pushed as adapters: the file is what merging would add, vLLM computes with it, and an engine that takes none gets merged weights."""

import asyncio
import logging
from contextlib import closing

import pytest
import torch
from rollhouse.base.errors import EngineError
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.engines.vllm_adapter import adapter_options, is_adapter
from rollhouse.train.config import LoraConfig
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.loop import train_grpo
from rollhouse.train.grpo.processes import adapter_arguments
from rollhouse.train.grpo.sync.file import FileSync
from rollhouse.train.grpo.sync.sync import open_sync
from rollhouse.train.grpo.sync.verify import begin_verification
from rollhouse.train.weights import own_weights
from safetensors.torch import load_file

from .settings import grpo_config, learner_config

LORA = LoraConfig(rank=4, alpha=12)


def trained(folder, samples):
    """A learner whose adapters are not 0."""
    learner = Learner(str(folder), learner_config(lora=LORA, lr=5e-2))
    for _ in range(2):
        learner.step(samples, [list(range(len(samples)))])
    return learner


def test_the_file_holds_what_merging_adds(random_model, make_samples, tmp_path):
    learner, path = trained(random_model, make_samples(4)), str(tmp_path / "adapter.safetensors")
    learner.save_adapters(path)
    written = load_file(path)
    assert is_adapter(written) and not is_adapter(load_file(random_model / "model.safetensors"))
    merged = own_weights(learner.model, lambda tensor: tensor)
    base = load_file(random_model / "model.safetensors")
    layers = [name.removesuffix(".lora_A.weight") for name in written if name.endswith(".lora_A.weight")]
    assert len(layers) == 2 * 7
    for layer in layers:
        name = layer.removeprefix("base_model.model.") + ".weight"
        added = written[f"{layer}.lora_B.weight"] @ written[f"{layer}.lora_A.weight"]
        assert added.abs().max() > 1e-3
        torch.testing.assert_close(base[name] + added, merged[name], atol=1e-6, rtol=1e-5)


def test_an_engine_that_takes_no_adapters_gets_merged_weights(random_models, make_samples, caplog):
    learner = trained(random_models[0], make_samples(4))
    with closing(TorchEngine(random_models[0], 64)) as engine:
        with closing(open_sync("file", learner, engine, adapters=True)) as sync:
            assert not sync.adapters
        with closing(FileSync(learner, engine, adapters=True)) as sync, caplog.at_level(logging.WARNING, "rollhouse"):
            sync.push(1)
            assert not sync.adapters and "merged weights" in caplog.text
            assert gap(learner, engine, make_samples(3, seed=2), 1) < 1e-4


def gap(learner, engine, samples, version):
    found = begin_verification(learner, engine, samples, version, version, 1e-3).result()
    assert found is not None
    return found


def test_when_adapters_are_pushed_alone():
    lora = {"rank": 20}
    assert adapter_arguments(grpo_config()) is None
    assert adapter_arguments(grpo_config(policy__lora=lora)) == adapter_options(20)
    assert adapter_options(20) == {"enable_lora": True, "max_lora_rank": 32, "max_loras": 1}
    assert adapter_options(1000) is None
    for generation in ({"adapters": "merged"}, {"weight_sync": "object_store"}):
        assert adapter_arguments(grpo_config(policy__lora=lora, policy__generation=generation)) is None


@pytest.mark.system
def test_vllm_computes_with_pushed_adapters_and_with_merged_weights_after_them(random_models, make_samples, tmp_path):
    from rollhouse.policies.engines.vllm_engine import VllmEngine

    base, other = random_models
    learner, samples = trained(base, make_samples(4)), make_samples(4, seed=7)
    engine = VllmEngine(str(base), (2,), 128, 0, **(adapter_options(4) or {}))
    with closing(engine), closing(FileSync(learner, engine, adapters=True)) as sync:
        sync.push(1)
        assert sync.adapters and gap(learner, engine, samples, 1) < 1e-4
        learner.step(make_samples(4), [[0, 1, 2, 3]])
        with pytest.raises(EngineError, match="weights differ"):
            gap(learner, engine, samples, 1)
        sync.push(2)
        assert gap(learner, engine, samples, 2) < 1e-4

        whole = Learner(str(other), learner_config())
        whole.save_weights(str(tmp_path / "whole.safetensors"))
        asyncio.run(engine.load_weights(str(tmp_path / "whole.safetensors"), 3))
        assert gap(whole, engine, samples, 3) < 1e-4
        asyncio.run(engine.load_weights(str(base), 4))
        sync.push(5)
        assert gap(learner, engine, samples, 5) < 1e-4


@pytest.mark.system
@pytest.mark.parametrize("adapters", ["auto", "merged"])
def test_a_run_pushes_what_its_settings_say(prompt_store, configure, ray_session, adapters):
    run = f"pushes-{adapters}"
    config = configure(
        run=run,
        grpo__num_prompts_per_step=2,
        grpo__num_generations_per_prompt=4,
        policy__lora={"rank": 4, "alpha": 8},
        **{"policy.generation__adapters": adapters, "policy.generation__weight_sync": "auto"},
    )
    train_grpo(prompt_store, config)
    rows = prompt_store.read("metrics", filter=f"run_id = '{run}'").to_pylist()
    numbers = {(row["step"], row["name"]): row["value"] for row in rows}
    assert {numbers[step, "sync/adapters"] for step in (1, 2)} == {float(adapters == "auto")}
    assert all(numbers[step, "mismatch/sync_max_abs"] < 1e-3 for step in (1, 2))
