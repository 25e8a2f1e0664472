"""Labels of rollouts: given and taken away by command and from Python, read in SQL, and followed by dataset rules."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rollhouse as rh
from rollhouse.cli.main import app
from typer.testing import CliRunner

CURRENT = "select rollout_id, message, label, note, author from current_labels order by all"


def command(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[rh.Store]:
    """Three solved rollouts, whose ids are one, two and three."""
    monkeypatch.setenv("ROLLHOUSE_STORE", str(tmp_path / "store"))
    store = rh.open()
    store.add(
        rh.Rollout(
            rollout_id=name,
            messages=[{"role": "user", "content": f"Say {name}"}, {"role": "assistant", "content": name}],
            reward=1.0,
            environment="words",
        )
        for name in ("one", "two", "three")
    )
    yield store


def current(store: rh.Store) -> list[dict[str, Any]]:
    return store.sql(CURRENT).arrow().to_pylist()


def test_the_newest_label_of_an_author_counts(store: rh.Store) -> None:
    assert command("label", "on", "good", "star", "--author", "ann").exit_code == 0
    assert command("label", "one", "--note", "half right", "--message", 0, "--author", "ann").exit_code == 0
    assert command("label", "one", "--note", "right", "--message", 0, "--author", "ann").exit_code == 0
    store.label("one", "good", author="ben")
    removed = command("label", "one", "star", "--remove", "--author", "ann")
    assert removed.stdout == "removed star on one\n"
    assert current(store) == [
        {"rollout_id": "one", "message": 0, "label": "note", "note": "right", "author": "ann"},
        {"rollout_id": "one", "message": None, "label": "good", "note": None, "author": "ann"},
        {"rollout_id": "one", "message": None, "label": "good", "note": None, "author": "ben"},
    ]
    store.label("one", message=0, author="ann", remove=True)
    assert [row["label"] for row in current(store)] == ["good", "good"]
    assert store.sql("select count(*) n from labels").arrow()["n"][0].as_py() == 7, "rows are never edited"
    assert store.check() == []


def test_what_cannot_be_labelled(store: rh.Store) -> None:
    for words, expected in {
        ("label", "absent", "good"): "There is no rollout 'absent'",
        ("label", "one"): "neither a label nor a note",
        ("label", "one", "good", "--message", "1"): "The rollout has no message 1",
        ("label", "one", "x" * 65): "The label has 65 characters",
        ("label", "one", "a\x1b[31m"): "is not a label",
        ("label", "one", "note"): "`note` is the label of notes",
        ("label", "t", "good"): "2 rollouts have ids that begin with 't'",
    }.items():
        result = command(*words)
        assert result.exit_code == 2 and expected in " ".join(result.output.split()), (words, result.output)
    store.snapshot("past")
    with pytest.raises(rh.RollhouseError, match="cannot be written in the store as it was at past"):
        rh.open(store.uri, at="past").label("one", "good")
    assert current(store) == []


def test_datasets_follow_labels(store: rh.Store) -> None:
    store.label("one", "good")
    store.label("two", "good")
    store.label("two", "leak", message=0)
    store.snapshot("labelled")
    store.label("three", "good")
    built = command("dataset", "build", "sft", "demos", "--from", "labelled", "--label", "good", "--not-label", "leak")
    assert built.exit_code == 0, built.output
    demos = store.dataset("demos@1")
    assert [row["rollout_id"] for row in store.sql("select unnest(rows).rollout_id as rollout_id from datasets").arrow().to_pylist()] == ["one"]  # fmt: skip
    assert "it has the label leak" in json.dumps(demos.why("two"), default=str)
    nothing = command("dataset", "build", "sft", "others", "--from", "labelled", "--label", "great")
    assert nothing.exit_code == 1 and "has the label 'great'" in " ".join(nothing.output.split())
    assert store.build_sft("all", at="labelled").n_rows == 3


def test_a_store_of_a_version_without_labels(store: rh.Store) -> None:
    store.snapshot("before")
    shutil.rmtree(Path(store.uri) / "labels.lance")
    read = command("sql", "select count(*) n from current_labels", "--format", "json")
    assert json.loads(read.stdout) == [{"n": 0}]
    for words in (["snapshot", "create", "s2"], ["snapshot", "diff", "s2", "s2"], ["compact"], ["gc"], ["snapshot", "show", "s2"]):  # fmt: skip
        assert command(*words).exit_code == 0, words
    assert command("label", "one", "good").exit_code == 0
    assert len(current(store)) == 1
    assert json.loads(command("sql", CURRENT, "--at", "s2", "--format", "json").stdout) == []
