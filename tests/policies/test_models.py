"""Model folders: what is refused, and which hashes tell models apart."""

import json
import shutil
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, EngineError, MissingExtra
from rollhouse.base.packages import require
from rollhouse.policies.config import PolicySettings
from rollhouse.policies.models import (
    architecture_hash,
    check_model_folder,
    load_tokenizer,
    model_folder,
    stop_token_ids,
    template_hash,
    tokenizer_hash,
    weights_hash,
)
from rollhouse.policies.opening import model_hash, open_policy
from rollhouse.tests.policies.hub_server import COMMIT, Hub, serve_hub
from rollhouse.train.checkpoints import resolve_model
from safetensors.torch import load_file, save_file


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_a_folder_without_weights_is_refused_by_name(random_models: tuple[Path, Path], tmp_path: Path) -> None:
    folder = copy(random_models[0], tmp_path / "model")
    assert check_model_folder(folder) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model has no weights"):
        check_model_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        check_model_folder(folder)
    with pytest.raises(ConfigError, match="no model folder"):
        check_model_folder(tmp_path / "nowhere")


def test_a_folder_without_tokenizer_is_refused(random_models: tuple[Path, Path], tmp_path: Path) -> None:
    folder = copy(random_models[0], tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ConfigError, match="no tokenizer"):
        check_model_folder(folder)


def test_the_weights_hash_names_the_weights_and_not_how_they_lie(
    random_models: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = random_models
    tensors = load_file(first / "model.safetensors")
    names = sorted(tensors)
    split = tmp_path / "split"
    split.mkdir()
    save_file({name: tensors[name] for name in names[1::2]}, split / "a.safetensors", metadata={"x": "y"})
    save_file({name: tensors[name] for name in names[::2]}, split / "b.safetensors")
    assert weights_hash(split) == weights_hash(first) == weights_hash(first / "model.safetensors")
    assert weights_hash(first) != weights_hash(second)
    tensors[names[0]] = tensors[names[0]].reshape(1, *tensors[names[0]].shape)
    save_file(tensors, tmp_path / "reshaped.safetensors")
    assert weights_hash(tmp_path / "reshaped.safetensors") != weights_hash(first)


def test_the_architecture_hash_ignores_what_a_save_adds(random_models: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = random_models
    folder = copy(second, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "0", "use_cache": False}))
    assert architecture_hash(folder) == architecture_hash(first)
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))
    assert architecture_hash(folder) != architecture_hash(first)


def test_tokenizer_and_template_have_their_own_hashes(random_models: tuple[Path, Path]) -> None:
    tokenizer, again = load_tokenizer(random_models[0]), load_tokenizer(random_models[1])
    again(["a", "bb"], padding=True, truncation=True, max_length=1)  # leaves padding and truncation set
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer)
    again.chat_template = str(again.chat_template) + " "
    assert template_hash(again) != template_hash(tokenizer) and tokenizer_hash(again) == tokenizer_hash(tokenizer)
    again.add_tokens(["<new>"])
    assert tokenizer_hash(again) != tokenizer_hash(tokenizer)


def test_a_turn_ends_at_the_tokenizers_end_token_and_those_of_the_generation_config(
    random_models: tuple[Path, Path],
) -> None:
    tokenizer = load_tokenizer(random_models[0])
    assert stop_token_ids(random_models[0], tokenizer) == (2, 0)


def test_a_missing_package_says_how_to_get_it() -> None:
    with pytest.raises(MissingExtra, match=r"make setup.*\[train\]"):
        require("a_package_that_is_not_there")


def test_models_come_from_a_folder_or_the_hub(
    random_models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = random_models[0]
    hub = Hub({"models/us/tiny": {file.name: file.read_bytes() for file in folder.iterdir()}})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serve_hub(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        fetched = model_folder("us/tiny")
        assert weights_hash(fetched) == weights_hash(folder) and fetched == model_folder(f"us/tiny@{COMMIT}")
        with open_policy(
            named := PolicySettings(engine="torch", model_name="us/tiny", max_total_sequence_length=64)
        ) as policy:
            assert policy.policy_id == weights_hash(folder) == model_hash(named)
        with pytest.raises(ConfigError, match="no revision 'v9'"):
            model_folder("us/tiny@v9")
        with pytest.raises(ConfigError, match="us/other', and there is no checkpoint or run 'us/other'"):
            resolve_model(None, "us/other")
        hub.status = 429
        with pytest.raises(EngineError, match="limits the rate"):
            model_folder("us/third")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert model_folder("us/tiny") == fetched and model_folder(folder) == folder
    with pytest.raises(ConfigError, match="neither a folder nor a name on the hub"):
        model_folder(tmp_path / "nowhere")
