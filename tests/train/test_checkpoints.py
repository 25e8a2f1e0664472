"""Checkpoints: whole folders with a row each, found again by the names people type."""

import shutil
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.models import load_tokenizer, weights_hash
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.train.checkpoints import resolve_model, save_checkpoint
from rollhouse.train.offline import load_model


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def save(store: LanceStore, model: Path, step: int, folder: Path | None = None, **more) -> dict:
    with start_run(store, "sft", "r") as run:
        return save_checkpoint(store, run, load_model(model), load_tokenizer(model), step, folder, **more)


def test_a_checkpoint_is_the_model_with_tokenizer_and_template(store, fresh_model, tmp_path) -> None:
    row = save(store, fresh_model, 3, tmp_path / "results", dataset="d@1", metrics={"train/loss": 0.5}, parent_hash="p")
    folder = tmp_path / "results" / "r" / "step_3"
    assert Path(row["path"]) == folder and row["weights_hash"] == weights_hash(fresh_model)
    assert ChatFormat.of(folder).template_hash == ChatFormat.of(fresh_model).template_hash
    assert ChatFormat.of(folder).tokenizer_hash == ChatFormat.of(fresh_model).tokenizer_hash
    stored = store.read("checkpoints").to_pylist()
    assert [(kept["checkpoint_id"], kept["dataset"], kept["parent_hash"]) for kept in stored] == [
        ("r/step_3", "d@1", "p")
    ]
    assert stored[0]["metrics"] == '{"train/loss": 0.5}'


def test_what_an_interrupted_save_left_is_replaced(store, fresh_model, tmp_path) -> None:
    folder = tmp_path / "results"
    half = folder / "r" / "tmp_step_3"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    save(store, fresh_model, 3, folder)
    again = save(store, fresh_model, 3, folder)
    assert again["incarnation"] == 1 and store.read("checkpoints").num_rows == 2
    assert [path.name for path in (folder / "r").iterdir()] == ["step_3"]


def test_names_of_models(store, fresh_model, tmp_path) -> None:
    first, last = (save(store, fresh_model, step, tmp_path / "results")["path"] for step in (9, 10))
    assert resolve_model(store, "r/step_9") == Path(first) and resolve_model(store, "r") == Path(last)
    assert resolve_model(store, str(fresh_model)) == resolve_model(None, fresh_model) == fresh_model
    with pytest.raises(ConfigError, match="no model 'no such/model/there'"):
        resolve_model(store, "no such/model/there")
    Path(last).rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="of checkpoint r/step_10 does not exist"):
        resolve_model(store, "r")


def test_a_store_keeps_its_checkpoints_to_itself(store, fresh_model, tmp_path) -> None:
    other = LanceStore.create(tmp_path / "other")
    mine, theirs = save(store, fresh_model, 1), save(other, fresh_model, 1)
    assert Path(mine["path"]) == tmp_path / "store" / "checkpoints" / "r" / "step_1" != Path(theirs["path"])
    shared = tmp_path / "shared"
    save(store, fresh_model, 1, shared)
    with pytest.raises(ConfigError, match=r"step_1 belongs to another run than 'r' of .*other"):
        save(other, fresh_model, 2, shared)
    (tmp_path / "bare" / "r" / "step_1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="step_1 belongs to another run than 'r'"):
        save(store, fresh_model, 1, tmp_path / "bare")


def test_weights_that_were_exchanged_are_noticed(store, fresh_model, tiny_base) -> None:
    path = Path(save(store, fresh_model, 1)["path"])
    shutil.copy(tiny_base / "model.safetensors", path / "model.safetensors")
    with pytest.raises(ConfigError, match=f"r/step_1: the hash of its weights is {weights_hash(tiny_base)}"):
        resolve_model(store, "r")


def test_the_tiny_base_has_a_name(store, tiny_base) -> None:
    assert resolve_model(store, "tiny-base") == tiny_base
