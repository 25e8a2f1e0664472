"""A user's own loss and advantage: the contract, the same bits as the built-in loss, and a place in the run's identity."""

from pathlib import Path

import pytest
import torch
from rollhouse.base.errors import ConfigError, TrainingError
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.run_settings import refuse_other_config
from rollhouse.store.runs import start_run
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.config_loss import LossConfig
from rollhouse.train.grpo.custom import load_advantage, load_loss
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.loss import policy_loss
from rollhouse.train.grpo.plan import make_plan
from rollhouse.train.grpo.preparing import run_config

from .settings import grpo_config, learner_config, loss_config
from .test_loss import batch, gradient, rows_of, totals_of
from .test_plan import rollout

OWN = Path(__file__).resolve().parents[3] / "examples" / "own_loss.py"
MEANS = {"tokens": {}, "rollouts": {"token_level_loss": False}, "fixed": {"fixed_length": 9}}


def own(name: str) -> str:
    return f"{OWN}:{name}"


def found(inputs, settings: LossConfig):
    logprobs = inputs.logprobs.clone().requires_grad_()
    moved = type(inputs)(**{**vars(inputs), "logprobs": logprobs})
    loss = policy_loss(moved, totals_of(inputs), settings, load_loss(settings.custom))
    loss.loss.backward()
    return loss, gradient(logprobs)


@pytest.mark.parametrize("means", MEANS.values(), ids=MEANS.keys())
def test_a_copy_of_the_default_loss_has_its_bits(means):
    inputs = batch(dtype=torch.float32)
    (built_in, one), (copied, other) = (
        found(inputs, loss_config(**means)),
        found(inputs, loss_config(**means, custom=own("clipped"))),
    )
    assert built_in.loss.item() == copied.loss.item() and torch.equal(one, other)
    assert set(copied.terms) >= {"ratio", "loss/outside"}
    outside = built_in.terms["ratio"].sub(1).abs() > 0.2
    assert torch.equal(copied.terms["loss/outside"][inputs.mask], outside[inputs.mask])


@pytest.mark.parametrize("name", ["clipped", "reinforce"])
@pytest.mark.parametrize("more", [{}, {"entropy_bonus": 0.1, "reference_policy_kl_penalty": 0.1}], ids=["alone", "kl"])
def test_no_split_over_micro_batches_and_ranks_changes_loss_or_gradient(name, more):
    inputs, settings = batch(), loss_config(custom=own(name), **more)
    whole, expected = found(inputs, settings)
    for split in ([[0, 1, 2, 3, 4, 5]], [[3], [1], [0, 5], [2, 4]], [[5, 4, 3], [2, 1, 0]], [[i] for i in range(6)]):
        logprobs, total = inputs.logprobs.clone().requires_grad_(), 0.0
        for rows in split:
            moved = type(inputs)(**{**vars(inputs), "logprobs": logprobs})
            part = policy_loss(
                rows_of(moved, torch.tensor(rows)), totals_of(inputs), settings, load_loss(settings.custom)
            )
            part.loss.backward()
            total += part.loss.item()
        assert total == pytest.approx(whole.loss.item(), abs=1e-12)
        torch.testing.assert_close(gradient(logprobs), expected, atol=1e-12, rtol=1e-9)


def test_a_learner_takes_the_steps_of_the_built_in_loss_bit_for_bit(random_model, make_samples):
    samples, after = make_samples(6, seed=3), []
    for loss in (loss_config(), loss_config(custom=own("clipped"))):
        learner = Learner(str(random_model), learner_config(lr=1e-2, num_updates_per_batch=2, loss_fn=loss))
        result = learner.step(samples, [[0, 1, 2], [3, 4, 5]])
        after.append((result, {name: value.detach().clone() for name, value in learner.model.named_parameters()}))
    (first, one), (second, other) = after
    assert first.loss == second.loss and all(torch.equal(one[name], other[name]) for name in one)
    clipped = first.metrics["train/clip_frac_low"] + first.metrics["train/clip_frac_high"]
    assert second.metrics["loss/outside"] >= clipped > 0 and "train/clip_frac_low" not in second.metrics
    assert [outcome.clipped_share for outcome in second.outcomes] == [None] * 6
    assert [outcome.logprobs for outcome in first.outcomes] == [outcome.logprobs for outcome in second.outcomes]


REFUSED = {
    "return inputs.logprobs.sum(), {}": "returned loss as",
    "return inputs.logprobs / inputs.mask.sum(), {}": "another loss or gradient",
    "return inputs.logprobs * inputs.advantages.std(), {}": "another loss or gradient",
    "return inputs.logprobs.detach(), {}": "no gradient",
    "return inputs.logprobs.sum(-1) / inputs.mask.sum(-1), {}": "not finite",
    "return inputs.logprobs": "returned Tensor",
    "return inputs.logprobs, {'share': 0.5}": "returned share as float",
    "return inputs.logprbs, {}": "failed: line 2: AttributeError",
}


@pytest.mark.parametrize(("body", "why"), REFUSED.items())
def test_a_loss_that_does_not_keep_to_the_contract_is_refused_before_training(tmp_path, body, why):
    file = tmp_path / "mine.py"
    file.write_text(f"def loss(inputs):\n    {body}\n")
    with pytest.raises(ConfigError, match=why) as refused:
        load_loss(f"{file}:loss")
    assert "mine.py:loss" in refused.value.message


def test_settings_of_the_built_in_loss_are_refused_beside_a_custom_one():
    with pytest.raises(ValueError, match="custom replaces ratio_clip_max"):
        loss_config(custom=own("clipped"), ratio_clip_max=0.28)
    with pytest.raises(ValueError, match="advantage replaces"):
        grpo_config(grpo__advantage=own("shorter_is_better"), grpo__normalize_rewards=False)


def test_an_own_advantage_is_called_for_each_group():
    rows = [rollout("a", i, 1.0, n_sampled_tokens=2 + i) for i in range(3)] + [
        rollout("b", i, float(i)) for i in (0, 1)
    ]
    rows += [rollout("c", 0, 1.0), rollout("c", 1, None, status="error")]
    config = grpo_config(grpo__advantage=own("shorter_is_better"))
    plan = make_plan("r", 1, rows, config, settings={})
    values = {entry.rollout_id: entry for entry in plan.entries}
    a, b, c = ([values[row["rollout_id"]] for row in rows if row["group_id"] == name] for name in "abc")
    lengths = [entry.advantage or 0 for entry in a]
    assert all(entry.kept for entry in [*a, *b]) and lengths[0] > lengths[1] > lengths[2]
    assert [entry.advantage for entry in b] == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-3)
    assert [entry.reason for entry in c] == ["alone in its group", "error"]


def test_an_own_advantage_of_another_shape_or_not_finite_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def mean(inputs):\n    return inputs.rewards.mean()\n\ndef scaled(inputs):\n    return inputs.rewards / inputs.rewards.min()\n"
    )
    for name in ("mean", "scaled"):
        with pytest.raises(ConfigError, match=f"mine.py:{name} returned"):
            load_advantage(f"{file}:{name}")
    file.write_text("def late(inputs):\n    return inputs.rewards / (3 - len(inputs.rewards) + 1)\n")
    rows = [rollout("a", i, float(i % 2)) for i in range(4)]
    with pytest.raises(TrainingError, match=r"mine\.py:late returned"):
        make_plan("r", 1, rows, grpo_config(grpo__advantage=f"{file}:late"), settings={})


def test_a_changed_file_is_another_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN.read_text())
    store = LanceStore.create(tmp_path / "store")
    config = grpo_config(run="own", loss_fn__custom=f"{file}:clipped", grpo__advantage=f"{file}:shorter_is_better")
    with start_run(store, "grpo", "own", run_config(config, "prompts@1", "weights")):
        pass
    refuse_other_config(store, "own", GrpoConfig, run_config(config, "prompts@1", "weights"))
    file.write_text(OWN.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"files\.loss_fn\.custom"):
        refuse_other_config(store, "own", GrpoConfig, run_config(config, "prompts@1", "weights"))
