"""Models and data sets from a hub, against a server that speaks enough of its API."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, EngineError
from rollhouse.policies.hub import hub_folder
from rollhouse.tests.policies.hub_server import COMMIT, Hub, serve_hub

MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "modeling_it.py": b"raise SystemExit",
    "original/consolidated.safetensors": b"weights again",
}
TOKEN = "hf_a-secret-of-mine"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub(Hub({"models/us/small": MODEL, "datasets/us/sums": {"main/train.jsonl": b"{}\n"}})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


def test_a_model_comes_without_pickles_code_and_a_second_copy(hub: Hub, tmp_path: Path) -> None:
    folder = hub_folder("us/small", cache=tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert hub_folder("us/small", revision=COMMIT, cache=tmp_path) == folder


def test_a_data_set(hub: Hub, tmp_path: Path) -> None:
    assert (hub_folder("us/sums", "dataset", cache=tmp_path) / "main/train.jsonl").read_text() == "{}\n"


def test_the_token_reaches_the_hub_and_no_message(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add("models/us/small")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match="gated") as caught:
        hub_folder("us/small", cache=tmp_path)
    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in str(caught.value)
    assert f"{hub.url}/us/small" in caught.value.fix
    monkeypatch.setenv("HF_TOKEN", "let-me-in")
    assert (hub_folder("us/small", cache=tmp_path) / "config.json").is_file()


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, ConfigError, "or it is private"),
        (403, ConfigError, "gated"),
        (429, EngineError, "limits the rate"),
        (500, EngineError, "returned status 500"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, tmp_path: Path, status: int, kind: type, message: str) -> None:
    hub.status = status
    with pytest.raises(kind, match=message) as caught:
        hub_folder("us/small", cache=tmp_path)
    assert caught.value.fix


def test_names_and_revisions_that_are_not_there(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'us/none'"):
        hub_folder("us/none", cache=tmp_path)
    with pytest.raises(ConfigError, match="no revision 'v9'"):
        hub_folder("us/small", revision="v9", cache=tmp_path)
    with pytest.raises(ConfigError, match="is not a hub name"):
        hub_folder("a/b/c", cache=tmp_path)


def test_a_hub_that_is_away(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub_folder("us/small", cache=tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub_folder("us/small", cache=tmp_path) == folder
    with pytest.raises(EngineError, match=r"from the hub at http://127\.0\.0\.1:9"):
        hub_folder("us/other", cache=tmp_path)


def test_offline_takes_the_copy_and_asks_nobody(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub_folder("us/small", cache=tmp_path)
    seen = len(hub.paths)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_folder("us/small", cache=tmp_path) == folder
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        hub_folder("us/sums", "dataset", cache=tmp_path)
    assert len(hub.paths) == seen


def test_the_variables_of_the_client_hold_in_a_fresh_process(hub: Hub, tmp_path: Path) -> None:
    script = "import sys; from rollhouse.policies.hub import hub_folder; print(hub_folder('us/small'))"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(str(tmp_path))
    assert f"Bearer {TOKEN}" in hub.tokens
    assert TOKEN not in run.stdout + run.stderr
    environment["HF_HUB_OFFLINE"] = "1"
    again = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert again.stdout == run.stdout
    assert json.loads((Path(again.stdout.strip()) / "tokenizer.json").read_text())
