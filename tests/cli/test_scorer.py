"""Every reader takes `--scorer`: search, export and report show the verdicts that were chosen."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rollhouse.cli.main import app
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import STARTED, sum_rollout
from typer.testing import CliRunner

IDS = [sum_rollout("own", i).rollout_id for i in range(3)]


def score(number: int, rollout_id: str, version: str, reward: float) -> dict[str, Any]:
    part = {"name": "strict", "value": reward, "weight": None}
    return {
        "row_id": f"{version}-{number}", "rollout_id": rollout_id, "scorer": "strict", "scorer_version": version,
        "reward": reward, "passed": reward == 1.0, "components": [part], "created_at": STARTED,
    }  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """Three rollouts of run `own`, all solved when they were collected. strict@2 fails the first, passes the second, and has no word on
    the third; strict@1, which spoke as late, gave each of the first two a quarter. None of them had spoken at snapshot `unscored`."""
    store = LanceStore.create(tmp_path_factory.mktemp("scorer") / "store")
    with start_run(store, "collect", "own") as run, RolloutWriter(store, run) as writer:
        for i in range(3):
            writer.add(sum_rollout("own", i))
    create_snapshot(store, "unscored")
    append_rows(store, "scores", [score(i, IDS[i], "2", float(i)) for i in range(2)])
    append_rows(store, "scores", [score(i, IDS[i], "1", 0.25) for i in range(2)])
    return store


def rollhouse(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def found(store: LanceStore, *options: object) -> dict[str, Any]:
    rows = json.loads(rollhouse("search", "add", *options, "--store", store.uri, "--format", "json"))
    return {row["rollout_id"]: (row["reward"], row["passed"]) for row in rows}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_search(store: LanceStore) -> None:
    assert set(found(store).values()) == {(1.0, True)}
    assert found(store, "--scorer", "strict@2") == {IDS[0]: (0.0, False), IDS[1]: (1.0, True), IDS[2]: (None, None)}
    assert found(store, "--scorer", "strict@2", "--where", "reward < 0.5") == {IDS[0]: (0.0, False)}
    # Whichever of them matches best, it goes on looking for the one that counts.
    assert found(store, "--scorer", "strict@2", "--where", "passed", "--limit", 1) == {IDS[1]: (1.0, True)}
    assert len(found(store, "--scorer", "strict@2", "--run", "ow")) == 3, "the beginning of a run's id"
    unknown = CliRunner().invoke(app, ["search", "add", "--run", "other", "--store", store.uri])
    assert unknown.exit_code == 2 and "no run 'other'" in unknown.stderr
    assert found(store, "--scorer", "collected", "--where", "reward < 0.5") == {}


def test_searching_prompts(store: LanceStore) -> None:
    (row,) = json.loads(
        rollhouse(
            "search", "add", "--prompts", "--scorer", "strict@2", "--store", store.uri, "--format", "json"
        )
    )  # fmt: skip
    assert (row["rollouts"], row["mean_reward"], row["pass_rate"]) == (3, 0.5, 0.5)


def test_export_writes_and_filters_by_the_verdict(store: LanceStore, tmp_path: Path) -> None:
    common = ("--scorer", "strict@2", "--store", store.uri)
    rollhouse("export", "parquet", tmp_path / "a.parquet", *common)
    rows = {row["rollout_id"]: row for row in pq.read_table(tmp_path / "a.parquet").to_pylist()}
    answered = [(rows[id]["reward"], rows[id]["passed"], rows[id]["scorer"], rows[id]["scorer_version"]) for id in IDS]
    assert answered == [(0.0, False, "strict", "2"), (1.0, True, "strict", "2"), (None, None, None, None)]
    assert rows[IDS[0]]["reward_components"] == [{"name": "strict", "value": 0.0, "weight": None}]
    rollhouse("export", "trl-kto", tmp_path / "b.jsonl", *common)
    assert sorted(row["label"] for row in lines(tmp_path / "b.jsonl")) == [False, True]
    rollhouse("export", "trl", tmp_path / "c.jsonl", "--where", "not passed", "--run", "own", *common)
    assert [(row["rollout_id"], row["reward"]) for row in lines(tmp_path / "c.jsonl")] == [(IDS[0], 0.0)]


def test_what_was_imported_is_exported_with_only_its_verdict_changed(tmp_path: Path) -> None:
    """A 64-bit reward and component names are kept by the import beside the columns; the chosen verdict is exported all the same."""
    params = {"input": [{"role": "user", "content": "1 + 2?"}], "tools": []}
    reported = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    reported["content"] = [{"type": "output_text", "text": "3", "annotations": []}]  # type: ignore[assignment]
    row = {
        "responses_create_params": params, "response": {"id": "r", "model": "m", "output": [reported]}, "reward": 0.1, "accuracy": 0.1,
        "note": {"kept": [1]}, "_ng_task_index": 0, "_ng_rollout_index": 0, "agent_ref": {"name": "x"},
    }  # fmt: skip
    source, place = tmp_path / "a.jsonl", tmp_path / "store"
    source.write_text(json.dumps(row) + "\n")
    rollhouse("import", "nemo-gym", source, "--store", place)
    store = LanceStore.open(str(place))
    (id,) = store.read("rollouts", ["rollout_id"])["rollout_id"].to_pylist()
    append_rows(store, "scores", [score(0, id, "2", 1.0)])
    answered = rollhouse("export", "nemo-gym", tmp_path / "b.jsonl", "--store", place, "--format", "json")
    assert lines(tmp_path / "b.jsonl") == [row] and json.loads(answered)[0]["lost"] == {}
    command = ("export", "nemo-gym", tmp_path / "c.jsonl", "--scorer", "strict", "--store", place, "--format", "json")
    lost = json.loads(rollhouse(*command))[0]["lost"]
    expected = {name: value for name, value in row.items() if name != "accuracy"} | {"reward": 1.0, "strict": 1.0}
    assert lines(tmp_path / "c.jsonl") == [expected]
    assert lost == {"passed": 1, "scorer": 1, "scorer_version": 1}


def test_report(store: LanceStore, tmp_path: Path) -> None:
    for options, mean, source in (((), "1.000", False), (("--scorer", "strict@2"), "0.500", True)):
        rollhouse("report", "own", "--out", tmp_path / "r.html", *options, "--store", store.uri)
        html = (tmp_path / "r.html").read_text()
        assert f'<td class="n">{mean}</td>' in html and ("verdicts of strict@2" in html) is source
        assert ('class="verdict failed">failed</span> reward 0 ' in html) is source


def test_report_judges_evaluations_by_the_scorer(tmp_path: Path) -> None:
    place = tmp_path / "store"
    rollhouse(
        "eval", "env", "--env", "workplace-mini", "--limit", 2, "--run", "e", "--mistake-rate", 0, "--store", place
    )
    store = LanceStore.open(str(place))
    ids = store.read("evaluations", ["rollout_id"])["rollout_id"].to_pylist()
    append_rows(store, "scores", [score(i, id, "2", 0.0) for i, id in enumerate(ids)])
    for options, best in (((), "100%"), (("--scorer", "strict"), "0%")):
        rollhouse("report", "e", "--out", tmp_path / "r.html", *options, "--store", place)
        assert f"<b>{best}</b><span>best pass rate" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "command",
    [
        ("sql", "select 1"), ("query", "reward_by_run"), ("search", "add"), ("search", "giraffe"), ("search", "add", "--prompts"),
        ("export", "trl", "out.jsonl"), ("report", "own"),
    ],
)  # fmt: skip
def test_an_unknown_scorer_is_refused_with_those_there_are(store: LanceStore, command: tuple[str, ...]) -> None:
    for scorer in ("strct", "strict@3"):
        result = CliRunner().invoke(app, [*command, "--scorer", scorer, "--store", store.uri])
        assert result.exit_code == 2 and f"no verdict of scorer '{scorer}'" in result.stderr
        assert "collected, strict@1, strict@2" in result.stderr


@pytest.mark.parametrize("command", [("search", "add"), ("export", "trl", "out.jsonl"), ("report", "own")])
def test_a_scorer_had_not_spoken_yet(store: LanceStore, command: tuple[str, ...]) -> None:
    options = ("--scorer", "strict@2", "--at", "unscored", "--store", store.uri)
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 2 and "store at unscored has no verdict" in result.stderr


def test_a_card_describes_the_file(store: LanceStore, tmp_path: Path) -> None:
    from datasets import load_dataset

    file, card = tmp_path / "d" / "solved.parquet", tmp_path / "d" / "README.md"
    rollhouse("snapshot", "create", "then", "--store", store.uri)
    condition = "reward is null or reward > 0"
    command = ("export", "trl-kto", file, "--card", "--scorer", "strict@2", "--where", condition, "--at", "then")
    rollhouse(*command, "--store", store.uri)
    text = card.read_text()
    for reported in ("| rollouts | 1 |", f"| where | {condition} |", "| at | then |", "| verdicts of | strict@2 |"):
        assert reported in text
    assert "| no verdict | 1 |" in text and "| environment | 1 |" in text
    rows: Any = load_dataset(str(tmp_path / "d"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["label"][:] == [True]
    rollhouse(*command, "--store", store.uri)


def test_a_readme_of_others_stays(store: LanceStore, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    for format in ("trl", "atif"):
        command = ["export", format, str(tmp_path / "out.jsonl"), "--card", "--store", store.uri]
        assert CliRunner().invoke(app, command).exit_code == 2
    assert (tmp_path / "README.md").read_text() == "mine" and not (tmp_path / "out.jsonl").exists()
