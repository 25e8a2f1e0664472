"""SFT and DPO on the learner: the same losses and weights as TRL's trainers, formulas by finite differences, and resuming."""

import math
from pathlib import Path

import pytest
import torch
from rollhouse.base.errors import ConfigError
from rollhouse.base.recipes import resolve
from rollhouse.policies.engines.weight_file import read_weights
from rollhouse.policies.models import weight_files
from rollhouse.store.runs import get_run
from rollhouse.train.dpo import DpoConfig, train_dpo
from rollhouse.train.on_learner import batches
from rollhouse.train.preference import score_pair
from rollhouse.train.sft import SftConfig, train_sft
from rollhouse.transform.build import build_dpo, build_sft

SMALL = ["policy.train_global_batch_size=6", "policy.train_micro_batch_size=3", "policy.optimizer.lr=1e-3"]
SMALL += ["policy.optimizer.scheduler=constant", "policy.device=cpu"]


def sft(model: Path, results: Path, run: str, *overrides: str) -> SftConfig:
    base = [f"policy.model_name={model}", f"checkpointing.checkpoint_dir={results}", "dataset=demos", f"run={run}"]
    return resolve(SftConfig, None, [*base, *SMALL, "sft.max_num_steps=2", *overrides])


def dpo(model: Path, results: Path, run: str, *overrides: str) -> DpoConfig:
    base = [f"policy.model_name={model}", f"checkpointing.checkpoint_dir={results}", "dataset=pairs", f"run={run}"]
    return resolve(DpoConfig, None, [*base, *SMALL, "dpo.max_num_steps=2", *overrides])


def losses(store, run: str) -> list[float]:
    rows = store.read("metrics", filter=f"run_id = '{run}' and name = 'train/loss'").to_pylist()
    return [row["value"] for row in sorted(rows, key=lambda row: row["step"])]


def apart(one: str, other: str) -> float:
    """The largest difference of a weight of two folders."""
    left, right = ({k: v.clone() for f in weight_files(p) for k, v in read_weights(f).items()} for p in (one, other))
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_sft_has_trls_losses_and_weights(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    ours = train_sft(office.store, sft(fresh_model, tmp_path / "a", "ours", "trainer=learner"))
    trls = train_sft(office.store, sft(fresh_model, tmp_path / "b", "trls"))
    # One batch is the whole dataset, so both see the same rows in either order.
    assert losses(office.store, "ours") == pytest.approx(losses(office.store, "trls"), rel=1e-5)
    assert apart(ours["path"], trls["path"]) < 0.2 * apart(ours["path"], str(fresh_model))
    summary = get_run(office.store, "ours")["summary"]
    assert summary["rows"]["sampled"] == 6 and summary["steps"] == 2
    assert sorted(path.name for path in Path(ours["path"]).parent.iterdir()) == ["step_2"]


@pytest.mark.system
@pytest.mark.parametrize(
    "more",
    [(), ("dpo.preference_average_log_probs=true", "dpo.sft_loss_weight=0.3", "dpo.preference_loss_weight=0.5")],
    ids=["sums", "means and likelihood"],
)
def test_dpo_has_trls_losses_and_weights(office, fresh_model, tmp_path, more) -> None:
    build_dpo(office.store, "pairs", "s1")
    ours = train_dpo(office.store, dpo(fresh_model, tmp_path / "a", "ours", "trainer=learner", *more))
    trls = train_dpo(office.store, dpo(fresh_model, tmp_path / "b", "trls", *more))
    assert losses(office.store, "ours") == pytest.approx(losses(office.store, "trls"), rel=1e-4)
    # AdamW's step of a weight whose gradient is nearly 0 has the sign of a rounding error.
    assert apart(ours["path"], trls["path"]) < 0.2 * apart(ours["path"], str(fresh_model))


def test_an_interrupted_run_reaches_the_same_weights(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    more = ("trainer=learner", "policy.train_global_batch_size=2", "sft.max_num_steps=3", "checkpointing.save_period=1")
    whole = train_sft(office.store, sft(fresh_model, tmp_path / "a", "whole", *more))

    class Stop(Exception):
        pass

    def stop(step: int, *_: object) -> None:
        if step == 2:
            raise Stop

    settings = sft(fresh_model, tmp_path / "b", "broken", *more)
    with pytest.raises(Stop):
        train_sft(office.store, settings, stop)
    seen: list[int] = []
    again = train_sft(office.store, settings, lambda step, *_: seen.append(step))
    assert seen == [3] and again["weights_hash"] == whole["weights_hash"]
    assert train_sft(office.store, settings) == again, "a run that is done is not trained again"


def test_rows_that_are_held_out_are_measured(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    settings = sft(fresh_model, tmp_path, "held", "trainer=learner", "validation.share=0.4", "sft.max_num_steps=1")
    train_sft(office.store, settings)
    summary = get_run(office.store, "held")["summary"]
    assert summary["rows"]["validation"] > 0 and summary["val/loss"] > 0


def test_options_of_trl_are_refused(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    with pytest.raises(ConfigError, match="trl has no effect"):
        train_sft(office.store, sft(fresh_model, tmp_path, "other", "trainer=learner", "trl.packing=true"))


def test_each_pass_has_every_row_once_in_another_order() -> None:
    found = list(batches(5, 2, 6, seed=1))
    assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6]
    first, second = ([row for _, rows in found[at : at + 3] for row in rows] for at in (0, 3))
    assert sorted(first) == sorted(second) == list(range(5)) and first != second
    assert list(batches(5, 2, 6, seed=1)) == found


def test_the_weight_of_a_pair_is_the_slope_of_its_loss() -> None:
    def loss(chosen: float, rejected: float) -> float:
        delta = torch.tensor((chosen - -3.0) - (rejected - -2.5), dtype=torch.float64)
        return -float(torch.nn.functional.logsigmoid(0.3 * delta))

    for chosen, rejected in ((-3.0, -2.5), (-1.0, -9.0), (-40.0, -1.0), (-1.0, -4000.0), (-4000.0, -1.0)):
        found = score_pair(chosen, rejected, -3.0, -2.5, 0.3)
        assert found.loss == pytest.approx(loss(chosen, rejected), abs=1e-12) and math.isfinite(found.weight)
        slope = (loss(chosen + 1e-4, rejected) - loss(chosen - 1e-4, rejected)) / 2e-4
        assert found.weight == pytest.approx(-slope, abs=1e-7)
        assert found.weight == pytest.approx((loss(chosen, rejected + 1e-4) - loss(chosen, rejected - 1e-4)) / 2e-4, abs=1e-7)  # fmt: skip
