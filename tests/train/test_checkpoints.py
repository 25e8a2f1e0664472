"""Checkpoints: whole folders with a row each, found again by the names people type."""

import shutil
from pathlib import Path

import pytest
from rollhouse.collect.chat import ChatFormat
from rollhouse.collect.models import load_tokenizer, weights_hash
from rollhouse.store.errors import ConfigError
from rollhouse.store.house import House
from rollhouse.store.runs import start_run
from rollhouse.train.checkpoints import resolve_model, save_checkpoint
from rollhouse.train.offline import load_model


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House.create(tmp_path / "house")


def save(house: House, model: Path, step: int, folder: Path | None = None, **more) -> dict:
    with start_run(house, "sft", "r") as run:
        return save_checkpoint(house, run, load_model(model), load_tokenizer(model), step, folder, **more)


def test_a_checkpoint_is_the_model_with_tokenizer_and_template(house, fresh_model, tmp_path) -> None:
    row = save(house, fresh_model, 3, tmp_path / "results", dataset="d@1", metrics={"train/loss": 0.5}, parent_hash="p")
    folder = tmp_path / "results" / "r" / "step_3"
    assert Path(row["path"]) == folder and row["weights_hash"] == weights_hash(fresh_model)
    assert ChatFormat.of(folder).template_hash == ChatFormat.of(fresh_model).template_hash
    assert ChatFormat.of(folder).tokenizer_hash == ChatFormat.of(fresh_model).tokenizer_hash
    stored = house.read("checkpoints").to_pylist()
    assert [(kept["checkpoint_id"], kept["dataset"], kept["parent_hash"]) for kept in stored] == [
        ("r/step_3", "d@1", "p")
    ]
    assert stored[0]["metrics"] == '{"train/loss": 0.5}'


def test_what_an_interrupted_save_left_is_replaced(house, fresh_model, tmp_path) -> None:
    folder = tmp_path / "results"
    half = folder / "r" / "tmp_step_3"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    save(house, fresh_model, 3, folder)
    again = save(house, fresh_model, 3, folder)
    assert again["incarnation"] == 1 and house.read("checkpoints").num_rows == 2
    assert [path.name for path in (folder / "r").iterdir()] == ["step_3"]


def test_names_of_models(house, fresh_model, tmp_path) -> None:
    first, last = (save(house, fresh_model, step, tmp_path / "results")["path"] for step in (9, 10))
    assert resolve_model(house, "r/step_9") == Path(first) and resolve_model(house, "r") == Path(last)
    assert resolve_model(house, str(fresh_model)) == resolve_model(None, fresh_model) == fresh_model
    with pytest.raises(ConfigError, match="no model 'no such/model/there'"):
        resolve_model(house, "no such/model/there")
    Path(last).rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="r/step_10 should lie in"):
        resolve_model(house, "r")


def test_a_house_keeps_its_checkpoints_to_itself(house, fresh_model, tmp_path) -> None:
    other = House.create(tmp_path / "other")
    mine, theirs = save(house, fresh_model, 1), save(other, fresh_model, 1)
    assert Path(mine["path"]) == tmp_path / "house" / "checkpoints" / "r" / "step_1" != Path(theirs["path"])
    shared = tmp_path / "shared"
    save(house, fresh_model, 1, shared)
    with pytest.raises(ConfigError, match=r"step_1 is not of run 'r' in .*other"):
        save(other, fresh_model, 2, shared)
    (tmp_path / "bare" / "r" / "step_1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="step_1 is not of run 'r'"):
        save(house, fresh_model, 1, tmp_path / "bare")


def test_weights_that_were_exchanged_are_noticed(house, fresh_model, tiny_base) -> None:
    path = Path(save(house, fresh_model, 1)["path"])
    shutil.copy(tiny_base / "model.safetensors", path / "model.safetensors")
    with pytest.raises(ConfigError, match=f"r/step_1: its weights are {weights_hash(tiny_base)}"):
        resolve_model(house, "r")


def test_the_tiny_base_has_a_name(house, tiny_base) -> None:
    assert resolve_model(house, "tiny-base") == tiny_base
