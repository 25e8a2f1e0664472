"""Checkpoints: whole folders with a row each, found again by the names people type."""

import shutil
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.models import load_tokenizer, weights_hash
from rollhouse.store.appending import insert_if_absent
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import check
from rollhouse.store.runs import start_run
from rollhouse.train.checkpoints import keep_best, resolve_model, save_checkpoint
from rollhouse.train.config import CheckpointingConfig
from rollhouse.train.offline import load_model


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def save(store: LanceStore, model: Path, step: int, folder: Path | None = None, run_id: str = "r", **more) -> dict:
    with start_run(store, "sft", run_id) as run:
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
    for name, path in {"r/latest": last, "latest": last, "r/best": last}.items():
        assert resolve_model(store, name) == Path(path)
    assert resolve_model(store, str(fresh_model)) == resolve_model(None, fresh_model) == fresh_model
    with pytest.raises(ConfigError, match="no model 'no such/model/there'"):
        resolve_model(store, "no such/model/there")
    Path(last).rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="of checkpoint r/step_10 does not exist"):
        resolve_model(store, "r")


def test_a_model_is_named_by_the_beginning_of_its_run(store, fresh_model) -> None:
    one, two = (save(store, fresh_model, 1, run_id=name)["path"] for name in ("grpo-office", "grpo-math"))
    assert resolve_model(store, "grpo-o") == resolve_model(store, "grpo-o/step_1") == Path(one)
    assert resolve_model(store, "grpo-m/best") == resolve_model(store, "latest") == Path(two)
    with pytest.raises(ConfigError, match="begin with 'grpo'"):
        resolve_model(store, "grpo")


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


KEEP_ONE = CheckpointingConfig(keep_top_k=1)


def test_the_table_holds_paths_relative_to_the_store(store, fresh_model, tmp_path) -> None:
    save(store, fresh_model, 1)
    save(store, fresh_model, 2, tmp_path / "elsewhere")
    paths = store.read("checkpoints", ["step", "path"]).sort_by("step")["path"].to_pylist()
    assert paths == ["checkpoints/r/step_1", str(tmp_path / "elsewhere" / "r" / "step_2")]


def test_a_copied_store_deletes_and_loads_its_own_checkpoints(store, fresh_model, tmp_path) -> None:
    for step in (1, 2):
        save(store, fresh_model, step)
    copy = LanceStore.open(shutil.copytree(store.uri, tmp_path / "copy"))
    assert [path.parent.parent.parent for path in keep_best(copy, "r", KEEP_ONE)] == [tmp_path / "copy"]
    assert (tmp_path / "store/checkpoints/r/step_1").is_dir(), "the original keeps its own"
    assert resolve_model(copy, "r/step_2") == tmp_path / "copy/checkpoints/r/step_2"
    moved = LanceStore.open(shutil.move(store.uri, tmp_path / "moved"))
    assert resolve_model(moved, "r/step_1") == tmp_path / "moved/checkpoints/r/step_1"
    assert check(moved) == [] and check(copy) == []


def crafted(store: LanceStore, path: Path | str, step: int = 1, run_id: str = "r") -> None:
    """A row as a stranger's store may hold it."""
    [row] = store.read("checkpoints", filter="step = 9").to_pylist()
    named = {"row_id": f"{run_id}{step}", "checkpoint_id": f"{run_id}/step_{step}", "run_id": run_id, "step": step}
    insert_if_absent(store, "checkpoints", [row | named | {"path": str(path)}])


@pytest.mark.parametrize("kind", ["absolute", "relative", "link", "another run's", "no mark"])
def test_a_crafted_row_deletes_and_opens_nothing_outside(store, fresh_model, tmp_path, kind) -> None:
    save(store, fresh_model, 9)
    victim = shutil.copytree(fresh_model, tmp_path / "victim")
    inside = Path(store.uri) / "checkpoints" / "r" / "step_1"
    if kind == "link":
        (victim / "rollhouse.json").write_bytes((inside.with_name("step_9") / "rollhouse.json").read_bytes())
        inside.symlink_to(victim)
    elif kind == "another run's":
        shutil.copytree(victim, inside)
        (inside / "rollhouse.json").write_text('{"run": "0123456789ab", "checkpoint": "r/step_1"}')
        victim = inside
    elif kind == "no mark":
        victim = shutil.copytree(victim, inside)
    crafted(store, {"relative": "../victim", "link": "checkpoints/r/step_1"}.get(kind, victim))
    assert keep_best(store, "r", KEEP_ONE) == []
    assert (victim / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match=r"checkpoint r/step_1 does not exist, or its rollhouse\.json"):
        resolve_model(store, "r/step_1")


def test_a_run_id_that_is_a_path_leads_nowhere(store, fresh_model, tmp_path) -> None:
    save(store, fresh_model, 9)
    shutil.copytree(fresh_model, tmp_path / "victim" / "step_1")
    crafted(store, tmp_path / "victim" / "step_1", run_id="../../victim")
    with pytest.raises(ConfigError, match=r"does not exist, or its rollhouse\.json"):
        resolve_model(store, "../../victim/step_1")
