"""Settings of the loss and of shaping that contradict each other."""

import logging

import pytest
from pydantic import ValidationError
from rollhouse.train.grpo.config_algorithm import RewardShapingConfig
from rollhouse.train.grpo.config_loss import LossConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncated_importance_sampling_type": "icepop"}, "needs a lower bound"),
        ({"truncated_importance_sampling_type": "seq-mask-tis"}, "needs a lower bound"),
        ({"truncated_importance_sampling_ratio": 0.9}, "must lie within"),
        ({"truncated_importance_sampling_ratio_min": 1.5}, "must lie within"),
        ({"objective": "cispo", "ratio_clip_c": 3.0}, "dual clip"),
        ({"use_kl_in_reward": True}, "needs a weight"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        LossConfig.model_validate(settings)


def test_a_correction_that_is_off_needs_no_bounds():
    for off in ({"use_importance_sampling_correction": False}, {"old_logprobs": "engine"}):
        LossConfig.model_validate({"truncated_importance_sampling_type": "icepop"} | off)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_level_importance_ratios": True}, "token_level_loss=false"),
        (
            {
                "reference_policy_kl_penalty": 0.1,
                "reference_policy_kl_type": "k1",
                "use_bias_correction_kl": False,
            },
            "expected gradient of 0",
        ),
    ],
)
def test_surprises_are_named(settings, message, caplog):
    with caplog.at_level(logging.WARNING, "rollhouse"):
        LossConfig.model_validate(settings)
    assert message in caplog.text


def test_what_goes_together_is_not_remarked_upon(caplog):
    with caplog.at_level(logging.WARNING, "rollhouse"):
        LossConfig(sequence_level_importance_ratios=True, token_level_loss=False)
        LossConfig(reference_policy_kl_penalty=0.1, reference_policy_kl_type="k1")
    assert not caplog.text


def test_length_is_punished_once():
    with pytest.raises(ValidationError, match="both penalize length"):
        RewardShapingConfig(overlong_buffer_length=4, stop_properly_penalty_coef=0.5)
    with pytest.raises(ValidationError, match="more than max_response_length"):
        RewardShapingConfig(overlong_buffer_length=4, max_response_length=3)
