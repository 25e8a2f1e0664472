"""Labels over HTTP: what is written, and when nothing is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.snapshots import create_snapshot

from .conftest import Site, fill, serving

HEADERS = {"Content-Type": "application/json"}


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Site]:
    """A viewer that writes labels."""
    yield from serving({"store": fill(tmp_path / "store")}, read_only=False)


def post(site: Site, body: Any, headers: dict[str, str] = HEADERS) -> tuple[int, Any]:
    status, _, text = site.get("/api/store/label", headers, "POST", json.dumps(body).encode())
    return status, json.loads(text)


def test_labels_are_written_and_filter(writing: Site) -> None:
    rollout = writing.json("/api/store/rollouts?sort=reward")["rows"][0]["rollout_id"]
    assert post(writing, {"rollout": rollout, "label": "leak", "author": "ann"})[0] == 200
    status, answer = post(writing, {"rollout": rollout, "note": "why?", "message": 0, "author": "ann"})
    assert status == 200
    assert [(one["message"], one["label"], one["note"], one["author"]) for one in answer["labels"]] == [
        (None, "leak", None, "ann"),
        (0, "note", "why?", "ann"),
    ]
    assert writing.json(f"/api/store/rollout/{rollout}")["labels"] == answer["labels"]
    assert [row["rollout_id"] for row in writing.json("/api/store/rollouts?label=leak")["rows"]] == [rollout]
    assert writing.json("/api/store/facets")["labels"] == [{"value": "leak", "n": 1}, {"value": "note", "n": 1}]
    assert post(writing, {"rollout": rollout, "label": "leak", "author": "ann", "remove": True})[0] == 200
    assert writing.json("/api/store/rollouts?label=leak")["rows"] == []


def test_a_wrong_body_is_named(writing: Site) -> None:
    for body, expected in [
        ([], "is not an object"),
        ({"rollout": 1}, "is not an object"),
        ({"rollout": "absent", "label": "x"}, "There is no rollout"),
        ({"rollout": "absent", "label": "x", "colour": "red"}, "'colour' is not expected"),
        ({"rollout": "absent", "label": "x", "message": True}, "'message' is not expected"),
    ]:
        status, answer = post(writing, body)
        assert status in (400, 404) and expected in answer["error"], body
    assert post(writing, {"rollout": "x"}, {"Content-Type": "text/plain"})[0] == 415
    assert post(writing, {"rollout": "x"}, {**HEADERS, "Origin": "http://other.example"})[0] == 403


def test_nothing_is_written_when_reading_only(tmp_path: Path) -> None:
    store = fill(tmp_path / "store")
    create_snapshot(store, "past")
    rollout = store.read("rollouts", ["rollout_id"])["rollout_id"][0].as_py()
    for shown, options in [(store, {}), (SqlStore.open(store.uri, "past"), {"read_only": False})]:
        for site in serving({"store": shown}, **options):
            assert site.json("/api/stores")["stores"][0]["labels"] is False
            assert post(site, {"rollout": rollout, "label": "good"}) == (403, {"error": "This viewer writes no labels", "fix": ""})  # fmt: skip
    assert store.read("labels").num_rows == 0
