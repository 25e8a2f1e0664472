"""Numbers of a run reach the store, also when the run fails."""

from pathlib import Path

import pytest
from rollhouse.store.house import House
from rollhouse.store.runs import start_run
from rollhouse.train.tracking import Tracker, wandb_key


def values(house: House) -> dict[tuple[int, str], float]:
    return {(row["step"], row["name"]): row["value"] for row in house.read("metrics").to_pylist()}


def test_what_was_logged_is_in_the_store_after_the_with(tmp_path: Path) -> None:
    house = House.create(tmp_path / "house")
    with start_run(house, "sft") as run, Tracker(run) as tracker:
        tracker.log(1, {"train/loss": 2.0})
        tracker.log(1, {"train/grad_norm": 1})
        tracker.log(2, {"train/loss": 1.0})
    assert values(house) == {(1, "train/loss"): 2.0, (1, "train/grad_norm"): 1.0, (2, "train/loss"): 1.0}


def test_a_failed_run_keeps_its_numbers(tmp_path: Path) -> None:
    house = House.create(tmp_path / "house")
    with pytest.raises(ZeroDivisionError), start_run(house, "sft") as run, Tracker(run) as tracker:
        tracker.log(1, {"train/loss": 2.0})
        _ = 1 / 0
    assert values(house) == {(1, "train/loss"): 2.0}


def test_the_key_of_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert wandb_key() is None
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password abc\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_key() == "abc"
    monkeypatch.setenv("WANDB_API_KEY", "xyz")
    assert wandb_key() == "xyz"
