"""Runs, their states and numbers, and free SQL."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.appending import append_rows
from rollhouse.store.runs import start_run
from rollhouse.tests.rows import STARTED, prompt_row, rollout_row, task_row
from rollhouse.tests.view.conftest import Site, fill, serving, validated
from rollhouse.view.reader import Reader
from rollhouse.view.runs import listed


def test_runs_say_how_they_do(site: Site) -> None:
    runs = {run["run_id"]: run for run in site.json("/api/store/runs")}
    assert (runs["g"]["status"], runs["g"]["rollouts"], runs["g"]["pass_rate"]) == ("finished", 4, 0.25)
    assert (runs["g"]["model"], runs["g"]["dataset"], runs["g"]["spark"]) == ("tiny", "prompts@1", [0.25, 0.5])
    assert (runs["c"]["status"], runs["c"]["failures"], runs["c"]["reward"]) == ("failed", 1, None)


def test_a_run_has_its_numbers_settings_checkpoints_and_what_it_left_out(site: Site) -> None:
    run = site.json("/api/store/run/g")
    assert run["config"]["grpo"] == {"seed": 3} and run["summary"] == {"steps": 2} and run["rollouts"]["n"] == 4
    assert run["metrics"] == ["time/generate", "time/train", "train/loss", "train/reward"]
    assert [row["checkpoint_id"] for row in run["checkpoints"]] == ["g/step_1", "g/step_2"]
    assert run["dropped"] == [{"step": 2, "reason": "zero_std", "n": 2}]
    curves = site.json("/api/store/curves?run=g&run=c&name=train/reward&name=train/loss")
    assert curves == {"g": {"train/reward": [[1, 2], [0.25, 0.5]], "train/loss": [[1, 2], [1.0, 0.5]]}, "c": {}}
    assert site.get("/api/store/run/nobody")[0] == 404


def test_a_scatter_holds_the_rollouts_of_a_run(site: Site) -> None:
    points = site.json("/api/store/scatter/g")
    assert (
        points["total"] == 4
        and sorted(points["step"]) == [1, 1, 2, 2]
        and sorted(points["reward"]) == [0.0, 0.5, 0.5, 1.0]
    )
    assert sorted(points["staleness"]) == [0, 0, 0, 1] and set(points["category"]) == {"sums"}


def test_a_run_whose_writer_is_gone_is_stale(tmp_path) -> None:
    store = fill(tmp_path / "store")
    run = start_run(store, "collect", "left", {})
    reader = Reader("x", store)
    assert {one["run_id"]: one["status"] for one in listed(reader)}["left"] == "running"
    run.lease.release()  # what the end of its process comes to
    assert {one["run_id"]: one["status"] for one in listed(reader)}["left"] == "stale"


def test_a_page_sees_what_was_written_since(tmp_path) -> None:
    store = fill(tmp_path / "store")
    reader = Reader("x", store)
    before, stamp = len(listed(reader)), reader.stamp()
    assert reader.cached(("n",), lambda: 1) == 1 and reader.cached(("n",), lambda: 2) == 1
    with start_run(store, "collect", "later", {}):
        pass
    assert len(listed(reader)) == before + 1 and reader.stamp() != stamp
    assert reader.cached(("n",), lambda: 2) == 2
    reader.close()


def test_sql_answers_with_columns_types_and_rows(site: Site) -> None:
    answer = site.json(
        "/api/store/sql?query=" + quote("select run_id, count(*) as n from rollouts group by 1 order by 1;")
    )
    assert answer["columns"] == ["run_id", "n"] and answer["rows"] == [["c", 1], ["g", 4]] and answer["more"] is False


def test_sql_sends_the_first_thousand_rows(site: Site) -> None:
    answer = site.json(
        "/api/store/sql?query=" + quote("select i, repeat('x', 9000) as t from range(1500) r(i) -- a comment")
    )
    assert len(answer["rows"]) == 1000 and answer["more"] is True and len(answer["rows"][0][1]) < 4100


@pytest.mark.parametrize(
    "text",
    ["", "drop table rollouts", "select 1; select 2", "select * from read_text('/etc/passwd')", "select nothing"],
)
def test_sql_refuses_what_rollhouse_sql_refuses(site: Site, text: str) -> None:
    assert site.get("/api/store/sql?query=" + quote(text))[0] == 400


def test_a_store_at_a_snapshot_shows_what_was_there(tmp_path) -> None:
    from rollhouse.store.snapshots import create_snapshot

    store = fill(tmp_path / "store")
    create_snapshot(store, "then")
    with start_run(store, "collect", "later", {}):
        pass
    then = Reader("x", SqlStore.open(tmp_path / "store", "then"))
    assert "later" not in {run["run_id"] for run in listed(then)} and then.stamp() == "at"


def test_a_run_lists_its_validations_by_step(tmp_path: Path) -> None:
    for site in serving({"store": validated(tmp_path)}):
        rows = site.json("/api/store/run/g")["validations"]
        assert [(row["run_id"], row["step"], row["pass_rate"], row["n"], row["status"]) for row in rows] == [
            ("g-val-5", 5, 1.0, 2, "finished"),
            ("g-val-15", 15, 0.5, 2, "finished"),
        ]
        assert site.json("/api/store/run/g-val-5")["validations"] == []


def test_the_lanes_of_a_step(tmp_path: Path) -> None:
    store = SqlStore.create(tmp_path / "store")
    append_rows(store, "prompts", [prompt_row()])
    append_rows(store, "tasks", [task_row()])
    times = [{"started_at": STARTED + timedelta(seconds=index), "duration_s": 2.0, "generate_s": 1.0, "tool_s": 0.5, "verify_s": None} for index in (0, 3)]  # fmt: skip
    append_rows(store, "rollouts", [rollout_row("g", index, step=4, **one) for index, one in enumerate(times)])
    append_rows(store, "rollouts", [rollout_row("g", 2, step=5, started_at=None)])
    numbers = {"run_id": "g", "step": 4, "name": "time/train", "created_at": STARTED}
    append_rows(store, "metrics", [numbers | {"row_id": f"m{i}", "incarnation": i, "value": float(i)} for i in (0, 1)])
    for site in serving({"store": store}):
        four = site.json("/api/store/lanes/g?step=4")
        assert [(row["start"], row["duration"], row["generate"], row["verify"]) for row in four["rows"]] == [(0, 2, 1, None), (3, 2, 1, None)]  # fmt: skip
        assert four["phases"] == {"train": 1.0} and four["steps"] == [4, 5] and four["total"] == 2
        assert site.json("/api/store/lanes/g") | {"steps": []} == {"step": 5, "steps": [], "total": 0, "rows": [], "phases": {}}  # fmt: skip
        assert site.json("/api/store/lanes/absent")["step"] is None
        assert site.get("/api/store/lanes/g?step=x")[0] == 400


def test_the_server_starts_without_what_no_page_needs() -> None:
    heavy = ("torch", "transformers", "lance", "duckdb", "rollhouse.eval.config")
    code = f"import rollhouse.view.run, rollhouse.view.server, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
