"""sql, query, snapshot, runs, lineage, check, compact and gc, as a user types them."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.common import Format, print_rows
from rollhouse.cli.main import app
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import rollout_row, sum_rollout
from typer.testing import CliRunner


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    """One run `first` of four rollouts, two of them solved."""
    store = LanceStore.create(tmp_path / "store")
    collect(store, "first")
    return store


def collect(store: LanceStore, name: str) -> None:
    with start_run(store, "collect", name, {"limit": 4}) as run, RolloutWriter(store, run, max_bytes=1) as writer:
        for i in range(4):
            writer.add(sum_rollout(name, i, reward=float(i % 2), passed=i % 2 == 1))
        run.finish({"rollouts": 4})


def rollhouse(store: LanceStore, *arguments: str) -> Any:
    return CliRunner(env={"ROLLHOUSE_STORE": store.uri}).invoke(app, list(arguments))


def answer(store: LanceStore, *arguments: str) -> list[dict]:
    """The JSON a command prints."""
    result = rollhouse(store, *arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_sql_in_three_formats(store: LanceStore) -> None:
    query = "select run_id, avg(reward) as mean from rollouts group by run_id"
    assert answer(store, "sql", query) == [{"run_id": "first", "mean": 0.5}]
    lines = rollhouse(store, "sql", query, "--format", "csv").stdout
    assert list(csv.reader(io.StringIO(lines))) == [["run_id", "mean"], ["first", "0.5"]]
    assert "\r" not in lines, "a shell's $(…) would keep it"
    table = rollhouse(store, "sql", query).stdout
    assert "run_id" in table and "first" in table


def test_a_long_text_among_numbers_leaves_the_other_columns_readable(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"option": "per_task_cap", "left": 4}, {"option": "sql", "left": "select " * 40}], Format.table)
    assert "per_task_cap" in capsys.readouterr().out


def test_sql_at_a_snapshot(store: LanceStore) -> None:
    assert rollhouse(store, "snapshot", "create", "early").exit_code == 0
    collect(store, "second")
    count = "select count(*) as n from rollouts"
    assert answer(store, "sql", count) == [{"n": 8}]
    assert answer(store, "sql", count, "--at", "early") == [{"n": 4}]
    result = rollhouse(store, "sql", count, "--at", "earlier")
    assert result.exit_code == 2
    assert "no snapshot 'earlier'" in result.stderr and "rollhouse snapshot list" in result.stderr


def test_sql_refuses_to_write(store: LanceStore, tmp_path: Path) -> None:
    for query in (f"copy rollouts to '{tmp_path}/out'", "create table t (i int)", "insert into rollouts values (1)"):
        result = rollhouse(store, "sql", query)
        assert result.exit_code == 2 and "Only SELECT and EXPLAIN" in result.stderr
    assert not (tmp_path / "out").exists()


def test_query_lists_and_answers(store: LanceStore) -> None:
    listed = answer(store, "query")
    assert {"query": "pass_rate_by_task", "parameters": "run environment"}.items() <= next(
        row for row in listed if row["query"] == "pass_rate_by_task"
    ).items()
    (row,) = answer(store, "query", "pass_rate_by_task", "run=first")
    assert (row["rollouts"], row["pass_rate"]) == (4, 0.5)
    for arguments, reported in (
        (["pas_rate_by_task"], "Did you mean pass_rate_by_task"),
        (["pass_rate_by_task", "first"], "NAME=VALUE"),
        (["training_curve"], "needs run"),
        (["pass_rate_by_task", "run=other"], "There is no run 'other'"),
    ):
        result = rollhouse(store, "query", *arguments)
        assert result.exit_code == 2 and reported in result.stderr


def test_snapshots_are_created_listed_shown_compared_deleted(store: LanceStore) -> None:
    created = rollhouse(store, "snapshot", "create", "one", "--note", "before")
    assert created.exit_code == 0 and "snapshot one: 4 rollouts" in created.stdout
    collect(store, "second")
    rollhouse(store, "snapshot", "create", "two")
    assert [(row["name"], row["rollouts"]) for row in answer(store, "snapshot", "list")] == [("one", 4), ("two", 8)]
    (shown,) = answer(store, "snapshot", "show", "one")
    assert shown["note"] == "before" and shown["tables"]["rollouts"]["rows"] == 4
    assert "rollouts" in rollhouse(store, "snapshot", "show", "one").stdout
    (found,) = answer(store, "snapshot", "diff", "one", "two")
    assert found["tables"]["rollouts"]["added"] == 4 and found["rollouts"][0]["run_id"] == "second"
    assert "mean reward 0.5000 -> 0.5000" in rollhouse(store, "snapshot", "diff", "one", "two").stdout
    assert rollhouse(store, "snapshot", "delete", "one").exit_code == 0
    assert [row["name"] for row in answer(store, "snapshot", "list")] == ["two"]
    assert rollhouse(store, "snapshot", "delete", "one").exit_code == 2
    assert rollhouse(store, "snapshot", "create", "two").exit_code == 2


def test_runs_are_listed_and_shown(store: LanceStore) -> None:
    (listed,) = answer(store, "runs", "list")
    assert (listed["run_id"], listed["status"], listed["summary"]) == ("first", "finished", {"rollouts": 4})
    (shown,) = answer(store, "runs", "show", "first")
    assert shown["config"] == {"limit": 4}
    assert "finished" in rollhouse(store, "runs", "list").stdout
    assert "limit" in rollhouse(store, "runs", "show", "first").stdout
    assert answer(store, "runs", "show", "fi")[0]["run_id"] == "first"
    collect(store, "fifth")
    ambiguous = rollhouse(store, "runs", "show", "fi")
    assert ambiguous.exit_code == 2 and "run fifth" in ambiguous.stderr and "run first" in ambiguous.stderr
    result = rollhouse(store, "runs", "show", "frist")
    assert result.exit_code == 2 and "Did you mean first" in result.stderr


def test_a_run_whose_process_is_gone_is_stale(store: LanceStore) -> None:
    code = (
        "import os, sys\nfrom rollhouse.store.lance_store import LanceStore\nfrom rollhouse.store.runs import start_run\n"
        "start_run(LanceStore.open(sys.argv[1]), 'collect', 'killed')\nos._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, store.uri], check=False).returncode == 9
    with start_run(store, "collect", "alive"):
        listed = {row["run_id"]: row for row in answer(store, "runs", "list")}
    assert {name: row["status"] for name, row in listed.items()} == {
        "first": "finished",
        "killed": "stale",
        "alive": "running",
    }
    assert (listed["first"]["rollouts"], listed["first"]["mean_reward"]) == (4, 0.5)
    assert (listed["killed"]["rollouts"], listed["killed"]["mean_reward"]) == (0, None)
    assert answer(store, "sql", "select status from runs where run_id = 'killed'") == [{"status": "running"}]


def test_lineage_as_tree_json_and_csv(store: LanceStore) -> None:
    tree = rollhouse(store, "lineage", "first")
    assert tree.exit_code == 0
    assert [line.strip(" └─│├").split()[0] for line in tree.stdout.splitlines()] == ["run", "rollouts", "policy"]
    (root,) = answer(store, "lineage", "first")
    assert root["children"][0]["children"][0]["id"] == "scripted"
    rows = list(csv.DictReader(io.StringIO(rollhouse(store, "lineage", "first", "--format", "csv").stdout)))
    assert [(row["kind"], row["made"]) for row in rows] == [("run", ""), ("rollouts", "first"), ("policy", "first")]
    assert rollhouse(store, "lineage", "nothing").exit_code == 2


def test_check_reports_problems_and_exits_with_1(store: LanceStore) -> None:
    result = rollhouse(store, "check")
    assert (result.exit_code, result.stdout.strip()) == (0, "The store is sound.")
    assert answer(store, "check") == []
    append_rows(store, "rollouts", [rollout_row("first", 0)])
    result = rollhouse(store, "check")
    assert result.exit_code == 1 and "rollouts has 1 keys more than once" in result.stdout
    result = rollhouse(store, "check", "--repair")
    assert (result.exit_code, result.stdout.strip()) == (0, "The store is sound.")
    assert "rollouts had 1 rows twice" in result.stderr


def test_compact_and_gc(store: LanceStore) -> None:
    report = {row["table"]: row for row in answer(store, "compact")}
    assert report["rollouts"]["fragments_after"] == 1
    versions = len(store.lance_dataset("rollouts").versions())
    dry = rollhouse(store, "gc", "--keep-hours", "0")
    assert "would free" in dry.stdout and "--yes" in dry.stdout
    assert len(store.lance_dataset("rollouts").versions()) == versions
    assert "freed" in rollhouse(store, "gc", "--keep-hours", "0", "--yes").stdout
    assert len(store.lance_dataset("rollouts").versions()) == 1
    assert answer(store, "sql", "select count(*) as n from rollouts") == [{"n": 4}]


def test_an_unknown_store_is_named_with_what_to_do(tmp_path: Path) -> None:
    nowhere = LanceStore(str(tmp_path / "nowhere"))
    for command in (["sql", "select 1"], ["runs", "list"], ["snapshot", "list"], ["check"], ["lineage", "x"]):
        result = rollhouse(nowhere, *command)
        assert result.exit_code == 2
        assert f"no store at {nowhere.uri}" in result.stderr.replace("\n", "") and "--store" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_as_a_process(store: LanceStore) -> None:
    script = Path(sys.executable).with_name("rollhouse")
    command = [script, "sql", "select count(*) as n from rollouts", "--format", "json"]
    done = subprocess.run(command, env=os.environ | {"ROLLHOUSE_STORE": store.uri}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '[{"n": 4}]\n', "")


def test_every_reading_command_takes_at(tmp_path: Path) -> None:
    """`--at` names the same past for all: what came after the snapshot is not there."""
    store = ["--store", str(tmp_path / "store")]
    collect = ["collect", "--env", "workplace-mini", "--engine", "scripted", "--limit", "2", *store]
    for arguments in ([*collect, "--run", "one", "--snapshot", "then"], [*collect, "--run", "two"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0

    def shown(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, *store, "--at", "then"])
        return f"{result.exit_code} {result.output}"

    listed = shown("runs", "list")
    assert "one" in listed and "two" not in listed
    for command in (["runs", "show", "two"], ["lineage", "two"], ["report", "two", "--out", str(tmp_path / "r.html")]):
        assert shown(*command).startswith("2 "), command
    assert shown("lineage", "one").startswith("0 ")
    assert shown("dataset", "list").startswith("0 ")
