"""A store made by an earlier version opens, reads, resumes and checks. `data/store_VERSION.tar.xz` is one; `data/README.md` describes how each was made."""

import io
import json
import tarfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from typer.testing import CliRunner

STORES = sorted((Path(__file__).parent / "data").glob("store_*.tar.xz"))
COLLECTED = ["collect", "--env", "workplace-mini", "--engine", "scripted", "--mistake-rate", "0.5"]


@pytest.fixture(params=STORES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unpacked store; commands of the test work on it."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    (store,) = tmp_path.iterdir()
    monkeypatch.setenv("ROLLHOUSE_STORE", str(store))
    return store


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def rows(query: str) -> list[dict[str, Any]]:
    return json.loads(CliRunner().invoke(app, ["sql", query, "--format", "json"]).stdout)


def test_it_is_read(old: Path) -> None:
    assert rows("select count(*) n, count(passed) judged from final_rollouts where run_id = 'base'") == [
        {"n": 12, "judged": 12}
    ]
    assert rows("select run_id, status from runs where kind in ('collect', 'eval', 'import', 'rescore') order by 1") == [
        {"run_id": "again", "status": "finished"},
        {"run_id": "base", "status": "finished"},
        {"run_id": "chats", "status": "finished"},
        {"run_id": "cut", "status": "running"},
        {"run_id": "ev", "status": "finished"},
    ]  # fmt: skip
    run("runs", "show", "base")
    run("lineage", "demos@1")


def test_a_finished_run_is_left_as_it_is(old: Path) -> None:
    run(*COLLECTED, "--limit", "6", "--num-repeats", "2", "--run", "base")
    assert rows("select count(*) n from rollouts where run_id = 'base'") == [{"n": 12}]
    run("eval", "env", "--env", "workplace-mini", "--engine", "scripted", "--limit", "3", "--run", "ev")
    assert rows("select count(*) n from evaluations where run_id = 'ev'") == [{"n": 3}]


def test_a_killed_run_goes_on_from_its_journal(old: Path) -> None:
    assert rows("select count(*) n from rollouts where run_id = 'cut'") == [{"n": 0}]
    run(*COLLECTED, "--limit", "400", "--num-repeats", "1", "--seed", "5", "--run", "cut", "--time-limit", "100")
    assert rows("select count(*) n, count(distinct task_id) tasks from rollouts where run_id = 'cut'") == [
        {"n": 400, "tasks": 400}
    ]
    run("check")


def test_another_setting_than_the_runs_is_refused(old: Path) -> None:
    refused = CliRunner().invoke(app, [*COLLECTED, "--limit", "6", "--num-repeats", "3", "--run", "base"])
    assert refused.exit_code == 2 and "num_repeats" in refused.output


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [("sft", "demos", []), ("grpo", "prompts", ["--run", "base"]), ("dpo", "pairs", ["--run", "base"])],
)
def test_a_dataset_is_built_to_the_version_there_is(old: Path, kind: str, name: str, options: list[str]) -> None:
    (before,) = [row for row in json.loads(run("dataset", "list", "--format", "json")) if row["dataset"] == f"{name}@1"]
    run("dataset", "build", kind, name, "--from", "s1", *options)
    (after,) = [
        row for row in json.loads(run("dataset", "list", "--format", "json")) if row["dataset"].startswith(f"{name}@")
    ]
    assert after == before


def test_an_import_is_recognised(old: Path, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    run("export", "openai-chat", str(chats), "--run", "base")
    with redirect_stdout(io.StringIO()):
        (summary,) = json.loads(run("import", "openai-chat", str(chats), "--run", "chats", "--format", "json"))
    assert (summary["added"], summary["present"]) == (0, 12)
