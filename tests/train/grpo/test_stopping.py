"""When a run ends early, and what is refused before it begins."""

import math

import pytest
from pydantic import ValidationError
from rollhouse.base.errors import ConfigError
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run, start_run
from rollhouse.train.grpo.config_algorithm import AlgorithmConfig, EarlyStopConfig
from rollhouse.train.grpo.validation import EarlyStop, reason_to_stop


@pytest.mark.parametrize(
    ("values", "settings", "stops"),
    [
        ([], {"patience": 1}, False),
        ([0.1, 0.2, 0.3], {"patience": 1}, False),
        ([0.3, 0.2], {"patience": 1}, True),
        ([0.3, 0.2], {"patience": 2}, False),
        ([0.3, 0.2, 0.3], {"patience": 2}, True),  # as good is not better
        ([0.3, 0.31, 0.32], {"patience": 2, "min_delta": 0.05}, True),
        ([0.3, 0.31, 0.36], {"patience": 2, "min_delta": 0.05}, False),
        ([2.0, 1.5, 1.6], {"patience": 1, "higher_is_better": False}, True),
        ([2.0, 1.5, 1.4], {"patience": 1, "higher_is_better": False}, False),
        ([0.5, 0.9], {"target": 0.9}, True),
        ([0.9, 0.5], {"target": 0.9}, False),
        ([0.2, 0.1], {"target": 0.1, "higher_is_better": False}, True),
        ([math.nan, math.nan], {"patience": 2}, True),
        ([math.nan, 0.0], {"patience": 2}, False),
        ([0.1] * 9, {}, False),
    ],
)
def test_the_rule(values, settings, stops):
    assert (reason_to_stop(values, EarlyStopConfig(**settings)) is not None) == stops


def test_earlier_lives_count_and_other_numbers_do_not(tmp_path):
    store = LanceStore.create(tmp_path / "store")
    with start_run(store, "grpo", "r") as run:
        run.metrics(2, {"train/reward": 0.5, "train/loss": 1.0})
        run.metrics(3, {"train/reward": 0.9})
        run.metrics(4, {"train/reward": 0.4})
    rule = EarlyStopConfig(metric_name="train:reward_mean", patience=2)
    with start_run(store, "grpo", "r") as run:
        stop = EarlyStop(run, rule, [2, 4])
        assert stop.reason is None
        assert "not better for 2 validations" in str(stop.saw(6, {"train/reward": 0.3}))
        assert EarlyStop(run, rule, [2, 3, 4]).reason is None
        with pytest.raises(ConfigError, match="Step 6 has no metric"):
            stop.saw(6, {"val/accuracy": 0.3})


def test_a_rule_without_validations_is_refused():
    with pytest.raises(ValidationError, match=r"grpo\.val_period"):
        AlgorithmConfig.model_validate({"early_stop": {"patience": 3}})


def test_a_run_that_is_good_enough_before_its_first_step_takes_none(prompt_store, configure, train_here):
    small = {"run": "already", "grpo__num_prompts_per_step": 2, "grpo__max_val_samples": 2, "grpo__val_at_start": True, "grpo__val_period": 9}  # fmt: skip
    row = train_here(configure(**small, **{"grpo.early_stop__target": 0.0}))
    assert row["step"] == 0 and row["weights_hash"] == row["parent_hash"]
    summary = get_run(prompt_store, "already")["summary"]
    assert summary["steps"] == 0 and "the target is 0" in summary["stopped"]
    assert not prompt_store.read("batch_plans", filter="run_id = 'already'").num_rows

    assert train_here(configure(**small))["step"] == 2, "without the target it goes on"
    assert train_here(configure(**small, grpo__max_num_steps=1))["step"] == 2, "it has taken that many, and more"
    assert prompt_store.read("batch_plans", filter="run_id = 'already'").num_rows == 2
