"""Router replay on a tiny Qwen3-MoE: recorded choices are followed, gradients are the learner's, and vLLM's choices close its gap to the learner."""

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rollhouse.base.errors import ConfigError, TrainingError
from rollhouse.policies.routes import pack_routes, unpack_routes
from rollhouse.policies.types import Sampling
from rollhouse.tests.random_model import byte_tokenizer
from rollhouse.train.grpo.learner.batch import TrainSample
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.routes import replaying, routes_of

from .settings import grpo_config, learner_config

EXPERTS, CHOSEN, LAYERS = 8, 2, 2


@pytest.fixture(scope="module")
def moe(tmp_path_factory) -> Path:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    shape: Any = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    config = Qwen3MoeConfig(
        **shape,
        vocab_size=263,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        num_hidden_layers=LAYERS,
        max_position_embeddings=256,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    config.initializer_range = 0.2
    folder = tmp_path_factory.mktemp("moe")
    Qwen3MoeForCausalLM(config).float().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def sample_of(routes, n=9):
    tokens = list(range(20, 20 + n - 3))
    logprobs = [-2.0] * len(tokens)
    packed = None if routes is None else pack_routes(routes)
    return TrainSample("a", [5, 6, 7], tokens, [1] * len(tokens), logprobs, 1.0, routes=packed)


def chosen_by(model, ids):
    """What the model chooses itself, [positions, layers, chosen], by its own router logits."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), output_router_logits=True).router_logits
    return torch.stack([layer.topk(CHOSEN, -1).indices for layer in logits], 1).numpy().astype(np.uint8)


def test_routes_come_back_from_text():
    routes = np.random.default_rng(0).integers(0, EXPERTS, (7, LAYERS, CHOSEN)).astype(np.uint8)
    assert np.array_equal(unpack_routes(pack_routes(routes)), routes)
    for wrong in ("", "?", "AAAA"):
        with pytest.raises(ValueError):
            unpack_routes(wrong)


def test_own_choices_change_nothing_and_others_are_followed(moe):
    plain = Learner(str(moe), learner_config())
    replays = Learner(str(moe), learner_config(router_replay=True))
    sample = sample_of(None)
    own = chosen_by(plain.model, [*sample.prompt_ids, *sample.token_ids][:-1])
    expected = plain.step([sample], [[0]])
    same = replays.step([sample_of(own)], [[0]])
    assert same.outcomes[0].logprobs == pytest.approx(expected.outcomes[0].logprobs, abs=1e-6)
    assert same.metrics["moe/replayed"] == 1.0 and "moe/replayed" not in expected.metrics

    other = (own + 1) % EXPERTS
    found = Learner(str(moe), learner_config(router_replay=True)).step([sample_of(other)], [[0]])
    gap = np.abs(np.subtract(found.outcomes[0].logprobs, expected.outcomes[0].logprobs))
    assert gap.max() > 0.1
    part = Learner(str(moe), learner_config(router_replay=True)).step([sample_of(other[:5])], [[0]])
    assert part.metrics["moe/replayed"] == pytest.approx(3 / 6)
    none = Learner(str(moe), learner_config(router_replay=True)).step([sample], [[0]])
    assert none.outcomes[0].logprobs == pytest.approx(expected.outcomes[0].logprobs, abs=1e-6)
    assert none.metrics["moe/replayed"] == 0.0


def test_padding_and_other_samples_do_not_change_a_samples_routes(moe):
    learner = Learner(str(moe), learner_config(router_replay=True))
    rng = np.random.default_rng(1)
    long, short = (rng.integers(0, EXPERTS, (n - 1, LAYERS, CHOSEN)).astype(np.uint8) for n in (12, 7))
    samples = [replace(sample_of(long, 12), rollout_id="l"), replace(sample_of(short, 7), rollout_id="s")]
    together = learner.step(samples, [[0, 1]]).outcomes
    for sample, expected in zip(samples, together, strict=True):
        (alone,) = Learner(str(moe), learner_config(router_replay=True)).step([sample], [[0]]).outcomes
        assert alone.logprobs == pytest.approx(expected.logprobs, abs=1e-5)


def test_the_gradient_is_that_of_finite_differences(moe):
    learner = Learner(str(moe), learner_config(router_replay=True))
    model = learner.model
    ids = torch.tensor([[5, 6, 7, 20, 21]])
    routes = torch.from_numpy(np.random.default_rng(2).integers(0, EXPERTS, (5, LAYERS, CHOSEN)))
    gate = model.model.layers[0].mlp.gate.weight

    def value():
        with replaying(model, routes):
            return model(input_ids=ids, use_cache=False).logits[0, :, 9].sum()

    (gradient,) = torch.autograd.grad(value(), gate)
    for place in (gradient.abs() > 0.3 * gradient.abs().max()).nonzero()[:4].tolist():
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                gate[tuple(place)] += sign * 1e-3
                sides.append(float(value()))
                gate[tuple(place)] -= sign * 1e-3
        # In float32, which is what experts are computed in.
        assert float(gradient[tuple(place)]) == pytest.approx((sides[0] - sides[1]) / 2e-3, rel=0.03)


def test_what_cannot_be_replayed_is_refused(moe, random_model):
    with pytest.raises(ConfigError, match="it has no experts"):
        Learner(str(random_model), learner_config(router_replay=True))
    with pytest.raises(ValidationError, match="activation_checkpointing=false"):
        grpo_config(policy__router_replay=True, policy__activation_checkpointing=True)
    learner = Learner(str(moe), learner_config(router_replay=True))
    wrong = np.zeros((8, LAYERS + 1, CHOSEN), np.uint8)
    with pytest.raises(TrainingError, match="stored routes are of 3 layers"):
        learner.step([sample_of(wrong)], [[0]])
    with pytest.raises(ValueError, match="do not fit its tokens"):
        routes_of([sample_of(np.zeros((30, LAYERS, CHOSEN), np.uint8))], 8, "cpu")


@pytest.mark.system
def test_vllms_choices_close_its_gap_to_the_learner(moe):
    """The engine computes in bfloat16, so that it chooses other experts than the float32 learner now and then."""
    from rollhouse.policies.engines.vllm_engine import VllmEngine

    engine = VllmEngine(str(moe), (2,), 128, 0, dtype="bfloat16", enable_return_routed_experts=True)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(7, 263, 24).tolist() for _ in range(16)]

    async def sample_all():
        return await asyncio.gather(*(engine.generate(ids, Sampling(max_tokens=32, seed=1)) for ids in prompts))

    with closing(engine):
        answers = asyncio.run(sample_all())
    samples = [
        TrainSample(f"r{i}", ids, a.token_ids, [1] * len(a.token_ids), a.logprobs, 1.0, routes=pack_routes(a.routes))
        for i, (ids, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    gaps = {}
    for replay in (False, True):
        learner = Learner(str(moe), learner_config(router_replay=replay))
        metrics = learner.step(samples, [list(range(len(samples)))]).metrics
        gaps[replay] = metrics["mismatch/logp_abs_diff"], metrics["mismatch/kl"]
        assert metrics.get("moe/replayed", 1.0) == 1.0
    assert gaps[True][0] < gaps[False][0] and gaps[True][1] < gaps[False][1]


@pytest.mark.system
def test_a_run_keeps_the_routes_and_is_replayed_with_them(moe, tmp_path):
    from rollhouse.policies.engines.vllm_engine import VllmEngine
    from rollhouse.store.lance_store import LanceStore
    from rollhouse.tests.zoo.on_vllm import grpo
    from rollhouse.train.grpo.original import changed_config, stored_config
    from rollhouse.train.grpo.replay import replay

    with closing(VllmEngine(str(moe), (2,), 256, 0, enable_return_routed_experts=True)) as engine:
        grpo(moe, engine, tmp_path, router_replay=True)
    store = LanceStore.open(tmp_path / "store")
    rows = store.read("rollouts", filter="run_id = 'zoo' and step >= 1").to_pylist()
    for row in rows:
        routes = unpack_routes(row["routed_experts"])
        assert routes.shape == (row["n_prompt_tokens"] + row["n_tokens"] - 1, LAYERS, CHOSEN)
    numbers = store.read("metrics", filter="run_id = 'zoo' and name = 'moe/replayed'")["value"].to_pylist()
    assert numbers == [1.0, 1.0]
    assert replay(store, "zoo", run="again").identical
    without = changed_config(stored_config(store, "zoo"), ["policy.router_replay=false"])
    replay(store, "zoo", without, run="without")
    found = store.read("metrics", filter="run_id = 'without' and name = 'mismatch/logp_abs_diff'")["value"].to_pylist()
    assert len(found) == 2 and not store.read("metrics", filter="run_id = 'without' and name = 'moe/replayed'").num_rows
