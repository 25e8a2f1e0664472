"""The router loss of a mixture of experts: its gradient against the architecture's own function, and the loads of its experts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rollhouse.base.errors import ConfigError
from rollhouse.tests.zoo.architectures import ARCHITECTURES
from rollhouse.tests.zoo.checks import _Keep, make_samples, plain_model
from rollhouse.train.grpo.config_loss import LossConfig
from rollhouse.train.grpo.config_policy import PolicyConfig
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.router import router_of
from rollhouse.train.grpo.learner.settings import LearnerSettings


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = next(architecture for architecture in ARCHITECTURES if architecture.kind == "qwen3_moe")
    return found.build(tmp_path_factory.mktemp("moe") / "model")


def step(folder: Path, micro_batches: list[list[int]], router_loss: float) -> tuple[dict[str, Any], dict[str, float]]:
    """Gradient and metrics of a step in which the router loss alone has a gradient."""
    policy = PolicyConfig.model_validate({"model_name": str(folder), "max_grad_norm": 1e9, "router_loss": router_loss})
    learner: Any = Learner(
        str(folder), LearnerSettings(policy, loss_fn=LossConfig(use_importance_sampling_correction=False))
    )
    samples = [
        type(s)(s.rollout_id, s.prompt_ids, s.token_ids, s.loss_mask, s.engine_logprobs, 0.0) for s in make_samples()
    ]
    result = learner.step(samples, micro_batches, before_update=_Keep(learner))
    return learner.kept, result.metrics


def test_gradient_is_that_of_the_models_own_function_at_sampled_positions(moe: Path) -> None:
    ours, metrics = step(moe, [[0, 1, 2, 3]], 0.5)
    model = plain_model(moe)
    model.zero_grad()
    layers: list[list[torch.Tensor]] = [[], []]
    for sample in make_samples():
        ids = torch.tensor([[*sample.prompt_ids, *sample.token_ids]])
        found = model.model(input_ids=ids, use_cache=False, output_router_logits=True).router_logits
        places = [len(sample.prompt_ids) - 1 + at for at, bit in enumerate(sample.loss_mask) if bit]
        for layer, logits in zip(layers, found, strict=True):
            layer.append(logits[places])
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    expected: Any = load_balancing_loss_func(tuple(map(torch.cat, layers)), 4, 2)  # type: ignore[arg-type]
    (0.5 * expected).backward()
    assert metrics["train/router_loss"] == pytest.approx(expected.item(), rel=1e-5)
    gates = [name for name, _ in model.named_parameters() if name.endswith("gate.weight")]
    assert len(gates) == 2
    for name in gates:
        grad = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(ours[name], grad, atol=1e-6, rtol=1e-3)


def test_loads_and_no_loss_without_a_coefficient(moe: Path) -> None:
    ours, metrics = step(moe, [[0, 1], [2, 3]], 0.0)
    assert all(not grad.any() for grad in ours.values())
    assert 1 <= metrics["moe/load_max"] <= 2 and 0 <= metrics["moe/load_min"] <= 1


def test_who_has_one(moe: Path) -> None:
    model = plain_model(moe)

    def coefficient(ranks: int) -> float:
        found = router_of(model, None, ranks)
        assert found is not None
        return found.coefficient

    assert coefficient(2) == 0
    model.config.output_router_logits = True
    try:
        assert coefficient(1) == model.config.router_aux_loss_coef
        with pytest.raises(ConfigError, match="one learner rank"):
            router_of(model, None, 2)
    finally:
        model.config.output_router_logits = False


def test_a_model_without_routers_has_none(random_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(random_model)
    assert router_of(model, None, 1) is None
    with pytest.raises(ConfigError, match="has no router loss"):
        router_of(model, 0.1, 1)
