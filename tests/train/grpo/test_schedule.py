"""The learning rate by step."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rollhouse.train.grpo.config_policy import GrpoOptimizer
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.update import learning_rate

from .settings import learner_config

BASE = {"lr": 1e-2}


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [1e-2, 1e-2, 1e-2]),
        ({"warmup_steps": 4}, [0.0025, 0.005, 0.0075, 0.01, 0.01]),
        ({"warmup_steps": 1, "scheduler": "linear", "decay_steps": 2}, [1e-2, 5e-3, 0, 0]),
        ({"scheduler": "linear", "decay_steps": 4, "min_lr": 2e-3}, [8e-3, 6e-3, 4e-3, 2e-3, 2e-3]),
        ({"scheduler": "cosine", "decay_steps": 3}, [7.5e-3, 2.5e-3, 0, 0]),
    ],
)
def test_rates_of_the_first_steps(settings, rates):
    optimizer = GrpoOptimizer.model_validate(BASE | settings)
    assert [learning_rate(step, optimizer) for step in range(1, len(rates) + 1)] == pytest.approx(rates, abs=1e-12)


@hypothesis_settings(deadline=None, derandomize=True)
@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(0, 20),
    st.integers(1, 50),
    st.floats(0, 1e-2),
    st.integers(1, 99),
)
def test_it_falls_after_the_warmup_and_ends_at_the_least(kind, warmup, decay, least, step):
    settings = GrpoOptimizer(lr=1e-2, scheduler=kind, warmup_steps=warmup, decay_steps=decay, min_lr=least)
    if step > warmup:
        assert least - 1e-12 <= learning_rate(step + 1, settings) <= learning_rate(step, settings) + 1e-12
    assert learning_rate(warmup + decay + step, settings) == pytest.approx(least)


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        ({"scheduler": "cosine"}, "cosine needs decay_steps"),
        ({"scheduler": "square", "decay_steps": 3}, "'constant', 'linear' or 'cosine'"),
        ({"scheduler": "linear", "decay_steps": 5, "min_lr": 1}, "min_lr=1 is above lr"),
    ],
)
def test_a_configuration_without_an_end_is_refused(optimizer, why):
    with pytest.raises(ValueError, match=why):
        GrpoOptimizer(**optimizer)


def test_the_learner_follows_it(random_model, make_samples):
    learner = Learner(str(random_model), learner_config(lr=1e-2, warmup_steps=4))
    rates = [learner.step(make_samples(2), [[0, 1]]).metrics["train/lr"] for _ in range(5)]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
