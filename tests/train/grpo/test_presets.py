"""Algorithms by name: what each preset sets, that given settings hold, and that the default changes nothing."""

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.train.grpo.algorithms import ALGORITHMS
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.config_loss import LossConfig
from rollhouse.train.grpo.original import changed_config

from .settings import grpo_config

CHANGED = {
    "grpo": {},
    "dr_grpo": {"grpo.normalize_rewards": False, "loss_fn.fixed_length": 1024},
    "dapo": {
        "grpo.use_dynamic_sampling": True,
        "grpo.reward_shaping.overlong_buffer_length": 204,
        "loss_fn.ratio_clip_max": 0.28,
    },
    "gspo": {
        "loss_fn.sequence_level_importance_ratios": True,
        "loss_fn.token_level_loss": False,
        "loss_fn.ratio_clip_min": 3e-4,
        "loss_fn.ratio_clip_max": 4e-4,
    },
    "cispo": {"loss_fn.objective": "cispo", "loss_fn.ratio_clip_min": 1.0},
    "gdpo": {"grpo.normalize_components": True},
    "rloo": {"grpo.normalize_rewards": False, "grpo.use_leave_one_out_baseline": True},
    "reinforce_pp": {"grpo.normalize_rewards": False, "grpo.whiten_advantages": True},
    "icepop": {
        "loss_fn.truncated_importance_sampling_type": "icepop",
        "loss_fn.truncated_importance_sampling_ratio_min": 0.5,
        "loss_fn.truncated_importance_sampling_ratio": 5.0,
    },
}


def flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_preset_sets_these_settings_and_no_other(name):
    before, after = (dict(flat(config.model_dump())) for config in (grpo_config(), grpo_config(algorithm=name)))
    assert {key: value for key, value in after.items() if value != before[key]} == CHANGED[name]


def test_the_lengths_of_a_preset_follow_the_model(tmp_path):
    made = grpo_config(algorithm="dr_grpo", policy__max_total_sequence_length=300)
    assert made.loss_fn.fixed_length == 300
    assert (
        grpo_config(algorithm="dapo", policy__max_total_sequence_length=300).grpo.reward_shaping.overlong_buffer_length
        == 60
    )


def test_given_settings_hold():
    made = grpo_config(algorithm="gspo", loss_fn={"token_level_loss": True, "ratio_clip_max": 0.2})
    assert made.loss_fn.token_level_loss and made.loss_fn.ratio_clip_max == 0.2 and made.loss_fn.ratio_clip_min == 3e-4
    made = GrpoConfig.model_validate(
        {"dataset": "d", "policy": {"model_name": "m"}, "algorithm": "gspo", "loss_fn": LossConfig(ratio_clip_min=0.1)}
    )
    assert made.loss_fn.ratio_clip_min == 0.1 and made.loss_fn.sequence_level_importance_ratios


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_resolved_settings_give_the_configuration_again(name):
    made = grpo_config(algorithm=name, grpo__whiten_advantages=False, loss_fn__token_level_loss=True)
    again = GrpoConfig.model_validate(made.model_dump(mode="json"))
    assert again.model_dump() == made.model_dump()


def test_an_unknown_algorithm_is_an_error_naming_the_known_ones():
    with pytest.raises(ValueError, match="grpo, dr_grpo, dapo, gspo, gdpo, cispo, rloo, reinforce_pp, icepop"):
        grpo_config(algorithm="ppo")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_replay_with_another_algorithm_has_its_settings_and_none_of_the_former(name):
    stored = GrpoConfig.model_validate(grpo_config(algorithm="dr_grpo", grpo__seed=5).model_dump(mode="json"))
    after, plain = changed_config(stored, [f"algorithm={name}", "policy.max_grad_norm=2"]), grpo_config(algorithm=name)
    assert after.loss_fn == plain.loss_fn and after.grpo.reward_shaping == plain.grpo.reward_shaping
    assert after.grpo.normalize_rewards == plain.grpo.normalize_rewards
    assert (after.grpo.seed, after.policy.max_grad_norm, after.grpo.use_dynamic_sampling) == (5, 2, False)


def test_a_replay_with_an_unknown_algorithm_names_the_known_ones():
    with pytest.raises(ConfigError, match="known algorithms are grpo"):
        changed_config(grpo_config(), ["algorithm=ppo"])
