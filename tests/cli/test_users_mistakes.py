"""What users trip over ends in one sentence: stores that cannot be written, far dates, stores of older versions, two exports to one file."""

import ctypes
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rollhouse.base.errors import one_line
from rollhouse.cli.main import app, explain
from rollhouse.collect.rescore import why_nothing_moved
from rollhouse.collect.rescore_summary import RescoreSummary
from rollhouse.interop.exporting import export_file
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.snapshots import create_snapshot
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """A store with three rollouts, run `a`."""
    store = LanceStore.create(tmp_path_factory.mktemp("mistakes") / "store")
    made = rollhouse("collect", "--env", "workplace-mini", "--engine", "scripted", "--limit", "3", "--run", "a", "--store", store.uri)  # fmt: skip
    assert made[0] == 0
    return store


def rollhouse(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("text", ["date '290000-01-01'", "[date '290000-01-01']", "{'a': timestamp '290000-01-01'}", "'infinity'::date", "timestamptz '290000-01-01 00:00:00+00'", "date '9999-12-31' + interval 1 day", "interval '999999 years'", "'nan'::double"])  # fmt: skip
@pytest.mark.parametrize("format", ["json", "csv", "table"])
def test_values_that_python_has_not_cost_no_row(store: LanceStore, text: str, format: str) -> None:
    query = f"select {text} as odd, 7 as n union all select {text}, 8"
    code, out, error = rollhouse("sql", query, "--store", store.uri, "--format", format)
    assert code == 0 and error == "" and "7" in out and "8" in out
    if format == "json":
        rows = json.loads(out, parse_constant=lambda name: pytest.fail(name))
        assert sorted(row["n"] for row in rows) == [7, 8]


MAIN = """
from rollhouse.cli.main import main
main()
"""


def read_only(*arguments: str) -> subprocess.CompletedProcess[str]:
    def lose_rights() -> None:  # without it root writes where permissions forbid it
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE

    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=lose_rights, timeout=300)


@pytest.mark.system
def test_a_store_that_cannot_be_written_is_read_and_refuses_in_a_sentence(tmp_path: Path) -> None:
    place = ["--store", str(tmp_path / "s")]
    made = rollhouse("collect", "--env", "workplace-mini", "--engine", "scripted", "--limit", "2", "--run", "a", *place)
    assert made[0] == 0
    folders = [tmp_path / "s", *(path for path in (tmp_path / "s").rglob("*") if path.is_dir())]
    try:
        for folder in folders:
            folder.chmod(0o555)
        for reading in (["runs", "list"], ["check"], ["sql", "select 1"], ["export", "parquet", str(tmp_path / "x.parquet")], ["gc"]):  # fmt: skip
            done = read_only(*reading, *place)
            assert (done.returncode, done.stderr.strip()) == (0, "") or reading[0] == "export", done.stderr
        for writing in (["search", "a"], ["snapshot", "create", "s1"], ["compact"], ["collect", "--env", "workplace-mini", "--engine", "scripted"]):  # fmt: skip
            done = read_only(*writing, *place)
            told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert done.returncode in (1, 2) and len(told) == 1 and "ermission" in told[0], done.stderr
            assert "Lance" not in done.stderr and ".rs:" not in done.stderr and "--debug" not in done.stderr
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_errors_of_lance_lose_the_places_of_its_source() -> None:
    text = 'lance error: LanceError(IO): Permission denied (os error 13) at path "/s/_leases.lance/data/.tmp1", /home/runner/lance/rust/lance-io/src/object_store.rs:1019:34.'  # fmt: skip
    assert one_line(text) == 'Permission denied (os error 13) at path "/s/_leases.lance/data/.tmp1".'
    shown = explain(OSError(text))
    assert shown.message == "/s/_leases.lance/data/.tmp1 cannot be read or written: permission is denied." and shown.fix
    assert explain(PermissionError(13, "Permission denied", "/x")).message.startswith("/x cannot be read or written")


def test_verdicts_are_added_to_a_store_that_lacks_newer_columns(tmp_path: Path) -> None:
    place = ["--store", str(tmp_path / "s")]
    collected = rollhouse("collect", "--env", "workplace-mini", "--engine", "scripted", "--limit", "2", "--run", "a", *place)  # fmt: skip
    assert collected[0] == 0
    store = LanceStore.open(tmp_path / "s")
    store.lance_dataset("scores").delete("true")
    for table, columns in {"rollouts": ["gaps", "n_tool_errors", "tokenizer_hash"], "scores": ["config_hash"]}.items():  # fmt: skip
        there = store.lance_dataset(table).schema.names
        store.lance_dataset(table).drop_columns([name for name in columns if name in there])
    code, _, error = rollhouse("rescore", "--scorer", "workplace-mini", "--run", "again", *place)
    assert code == 0, error
    assert store.lance_dataset("scores").count_rows("run_id = 'again'") == 2
    code, out, error = rollhouse("sql", "select count(*) as n from latest_scores where reward = 1", *place, "--format", "json")  # fmt: skip
    assert json.loads(out) == [{"n": 2}], error


def test_two_exports_to_one_file_leave_a_whole_file(store: LanceStore, tmp_path: Path) -> None:
    for format, path in (("openai-chat", tmp_path / "out" / "x.jsonl"), ("parquet", tmp_path / "out" / "x.parquet")):
        path.parent.mkdir(exist_ok=True)
        export_file(store, format, path)
        whole, begun = path.read_bytes(), threading.Event()

        def second(*_: int, format: str = format, path: Path = path, begun: threading.Event = begun) -> None:
            if not begun.is_set():  # the first has written a part, and goes on after the whole second
                begun.set()
                export_file(store, format, path)

        assert export_file(store, format, path, on_progress=second).rollouts == 3
        assert begun.is_set() and path.read_bytes() == whole
        assert os.listdir(path.parent).count(path.name) == 1 and not list(path.parent.glob("*.partial"))


def test_a_dataset_of_a_time_to_come_is_refused(store: LanceStore) -> None:
    create_snapshot(store, "s1")
    code, _, error = rollhouse("dataset", "build", "sft", "d", "--from", "2999-01-01", "--store", store.uri)
    assert code == 2 and "2999-01-01" in error


@pytest.mark.parametrize(("format", "file"), [("openai-chat", "."), ("parquet", "folder"), ("otel", "..")])
def test_an_export_to_a_folder_is_refused(store: LanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, file: str) -> None:  # fmt: skip
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder" if file == ".." else tmp_path)
    code, _, error = rollhouse("export", format, file, "--store", store.uri)
    assert (code, error.strip()) == (2, f"error: {file} is a folder.\nName a file.")


def test_a_file_whose_name_looks_like_an_address(store: LanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert rollhouse("export", "parquet", "http:rows.parquet", "--store", store.uri)[0] == 0
    assert (tmp_path / "http:rows.parquet").is_file()
    assert rollhouse("import", "parquet", "http:rows.parquet", "--store", str(tmp_path / "other"))[0] == 0


@pytest.mark.parametrize("command", [["collect"], ["eval", "env"]])
def test_a_harness_file_that_is_not_there_is_refused_before_the_engine_starts(tmp_path: Path, tiny_base: Path, command: list[str]) -> None:  # fmt: skip
    given = [*command, "--env", "workplace-mini", "--engine", "torch", "--model", str(tiny_base), "--limit", "1", "--harness", f"{tmp_path}/absent.py:run", "--store", str(tmp_path / "store")]  # fmt: skip
    code, _, error = rollhouse(*given)
    assert (
        code == 2 and f"There is no harness file {tmp_path}/absent.py." in error and "starting the engine" not in error
    )


@pytest.mark.parametrize(
    "words", [("collect", "--env", "workplace-mini", "--engine", "scripted", "--limit", "9" * 23), ("collect", "--env", "workplace-mini", "--engine", "scripted", "--seed", "9" * 23, "--dry-run"), ("search", "x", "--limit", "9" * 23), ("query", "longest_rollouts", f"limit={'9' * 23}")]
)  # fmt: skip
def test_a_huge_number_is_refused_in_a_sentence(store: LanceStore, words: tuple[str, ...]) -> None:
    code, _, error = rollhouse(*words, "--store", store.uri)
    assert code == 2 and "Error:" not in error.replace("error:", ""), error


def test_a_recipe_of_another_command_is_named_as_such(store: LanceStore) -> None:
    code, _, error = rollhouse("collect", "--config", "tiny-grpo", "--store", store.uri)
    assert code == 2 and "train grpo" in error


def test_a_long_answer_says_how_much_of_it_is_shown(store: LanceStore) -> None:
    query = "select unnest(range(400)) as n"
    code, out, error = rollhouse("sql", query, "--store", store.uri)
    assert code == 0 and "200 of 400" in error and " 399 " not in out
    assert len(rollhouse("sql", query, "--store", store.uri, "--format", "csv")[1].splitlines()) == 401


def test_a_run_is_shown_by_its_settings_then_its_numbers(store: LanceStore) -> None:
    code, out, _ = rollhouse("runs", "show", "a", "--store", store.uri)
    assert code == 0 and out.index("environment.limit") < out.index("pass_rate")


def test_a_comparison_of_nothing_says_why() -> None:
    summary = RescoreSummary("again", "elsewhere")
    assert "elsewhere" in why_nothing_moved(summary, "collected")
    summary.leave_out("no_truth")
    assert "1 no_truth" in why_nothing_moved(summary, "collected")


def test_the_next_command_names_the_store(store: LanceStore) -> None:
    create_snapshot(store, "now")
    code, out, _ = rollhouse("dataset", "build", "sft", "d", "--from", "now", "--store", store.uri)
    assert code == 0 and f"--store {store.uri}" in out and "MODEL" not in out
