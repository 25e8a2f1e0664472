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
from rollhouse.store.house import House
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import prompt_row, rollout_row, task_row
from typer.testing import CliRunner


@pytest.fixture
def house(tmp_path: Path) -> House:
    """One run `first` of four rollouts, two of them solved."""
    house = House.create(tmp_path / "house")
    collect(house, "first")
    return house


def collect(house: House, name: str) -> None:
    with start_run(house, "collect", name, {"limit": 4}) as run, RolloutWriter(house, run, max_bytes=1) as writer:
        for i in range(4):
            writer.add(rollout_row(name, i, reward=float(i % 2), passed=i % 2 == 1), prompt_row(), task_row())
        run.finish({"rollouts": 4})


def rollhouse(house: House, *arguments: str) -> Any:
    return CliRunner(env={"ROLLHOUSE_HOUSE": house.uri}).invoke(app, list(arguments))


def answer(house: House, *arguments: str) -> list[dict]:
    """The JSON a command prints."""
    result = rollhouse(house, *arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_sql_in_three_formats(house: House) -> None:
    query = "select run_id, avg(reward) as mean from rollouts group by run_id"
    assert answer(house, "sql", query) == [{"run_id": "first", "mean": 0.5}]
    lines = rollhouse(house, "sql", query, "--format", "csv").stdout
    assert list(csv.reader(io.StringIO(lines))) == [["run_id", "mean"], ["first", "0.5"]]
    assert "\r" not in lines, "a shell's $(…) would keep it"
    table = rollhouse(house, "sql", query).stdout
    assert "run_id" in table and "first" in table


def test_a_long_text_among_numbers_leaves_the_other_columns_readable(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"option": "per_task_cap", "left": 4}, {"option": "sql", "left": "select " * 40}], Format.table)
    assert "per_task_cap" in capsys.readouterr().out


def test_sql_at_a_snapshot(house: House) -> None:
    assert rollhouse(house, "snapshot", "create", "early").exit_code == 0
    collect(house, "second")
    count = "select count(*) as n from rollouts"
    assert answer(house, "sql", count) == [{"n": 8}]
    assert answer(house, "sql", count, "--at", "early") == [{"n": 4}]
    result = rollhouse(house, "sql", count, "--at", "earlier")
    assert result.exit_code == 2
    assert "no snapshot 'earlier'" in result.stderr and "rollhouse snapshot list" in result.stderr


def test_sql_refuses_to_write(house: House, tmp_path: Path) -> None:
    for query in (f"copy rollouts to '{tmp_path}/out'", "create table t (i int)", "insert into rollouts values (1)"):
        result = rollhouse(house, "sql", query)
        assert result.exit_code == 2 and "Only SELECT and EXPLAIN" in result.stderr
    assert not (tmp_path / "out").exists()


def test_query_lists_and_answers(house: House) -> None:
    listed = answer(house, "query")
    assert {"query": "pass_rate_by_task", "parameters": "run environment"}.items() <= next(
        row for row in listed if row["query"] == "pass_rate_by_task"
    ).items()
    (row,) = answer(house, "query", "pass_rate_by_task", "run=first")
    assert (row["rollouts"], row["pass_rate"]) == (4, 0.5)
    assert answer(house, "query", "pass_rate_by_task", "run=other") == []
    for arguments, said in (
        (["pas_rate_by_task"], "Did you mean pass_rate_by_task"),
        (["pass_rate_by_task", "first"], "NAME=VALUE"),
        (["training_curve"], "needs run"),
    ):
        result = rollhouse(house, "query", *arguments)
        assert result.exit_code == 2 and said in result.stderr


def test_snapshots_are_created_listed_shown_compared_deleted(house: House) -> None:
    created = rollhouse(house, "snapshot", "create", "one", "--note", "before")
    assert created.exit_code == 0 and "snapshot one: 4 rollouts" in created.stdout
    collect(house, "second")
    rollhouse(house, "snapshot", "create", "two")
    assert [(row["name"], row["rollouts"]) for row in answer(house, "snapshot", "list")] == [("one", 4), ("two", 8)]
    (shown,) = answer(house, "snapshot", "show", "one")
    assert shown["note"] == "before" and shown["tables"]["rollouts"]["rows"] == 4
    assert "rollouts" in rollhouse(house, "snapshot", "show", "one").stdout
    (found,) = answer(house, "snapshot", "diff", "one", "two")
    assert found["tables"]["rollouts"]["added"] == 4 and found["rollouts"][0]["run_id"] == "second"
    assert "mean reward 0.5000 -> 0.5000" in rollhouse(house, "snapshot", "diff", "one", "two").stdout
    assert rollhouse(house, "snapshot", "delete", "one").exit_code == 0
    assert [row["name"] for row in answer(house, "snapshot", "list")] == ["two"]
    assert rollhouse(house, "snapshot", "delete", "one").exit_code == 2
    assert rollhouse(house, "snapshot", "create", "two").exit_code == 2


def test_runs_are_listed_and_shown(house: House) -> None:
    (listed,) = answer(house, "runs", "list")
    assert (listed["run_id"], listed["status"], listed["summary"]) == ("first", "finished", {"rollouts": 4})
    (shown,) = answer(house, "runs", "show", "first")
    assert shown["config"] == {"limit": 4}
    assert "finished" in rollhouse(house, "runs", "list").stdout
    assert "limit" in rollhouse(house, "runs", "show", "first").stdout
    result = rollhouse(house, "runs", "show", "frist")
    assert result.exit_code == 2 and "Did you mean first?" in result.stderr


def test_lineage_as_tree_json_and_csv(house: House) -> None:
    tree = rollhouse(house, "lineage", "first")
    assert tree.exit_code == 0
    assert [line.strip(" └─│├").split()[0] for line in tree.stdout.splitlines()] == ["run", "rollouts", "policy"]
    (root,) = answer(house, "lineage", "first")
    assert root["children"][0]["children"][0]["id"] == "scripted"
    rows = list(csv.DictReader(io.StringIO(rollhouse(house, "lineage", "first", "--format", "csv").stdout)))
    assert [(row["kind"], row["made"]) for row in rows] == [("run", ""), ("rollouts", "first"), ("policy", "first")]
    assert rollhouse(house, "lineage", "nothing").exit_code == 2


def test_check_says_what_is_wrong_and_exits_with_1(house: House) -> None:
    result = rollhouse(house, "check")
    assert (result.exit_code, result.stdout.strip()) == (0, "The house is sound.")
    assert answer(house, "check") == []
    house.append("rollouts", [rollout_row("first", 0)])
    result = rollhouse(house, "check")
    assert result.exit_code == 1 and "rollouts has 1 keys more than once" in result.stdout
    result = rollhouse(house, "check", "--repair")
    assert (result.exit_code, result.stdout.strip()) == (0, "The house is sound.")
    assert "rollouts had 1 rows twice" in result.stderr


def test_compact_and_gc(house: House) -> None:
    report = {row["table"]: row for row in answer(house, "compact")}
    assert report["rollouts"]["fragments_after"] == 1
    versions = len(house.dataset("rollouts").versions())
    dry = rollhouse(house, "gc", "--keep-hours", "0")
    assert "would free" in dry.stdout and "--yes" in dry.stdout
    assert len(house.dataset("rollouts").versions()) == versions
    assert "freed" in rollhouse(house, "gc", "--keep-hours", "0", "--yes").stdout
    assert len(house.dataset("rollouts").versions()) == 1
    assert answer(house, "sql", "select count(*) as n from rollouts") == [{"n": 4}]


def test_an_unknown_house_is_named_with_what_to_do(tmp_path: Path) -> None:
    nowhere = House(str(tmp_path / "nowhere"))
    for command in (["sql", "select 1"], ["runs", "list"], ["snapshot", "list"], ["check"], ["lineage", "x"]):
        result = rollhouse(nowhere, *command)
        assert result.exit_code == 2
        assert f"no house at {nowhere.uri}" in result.stderr.replace("\n", "") and "--house" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_as_a_process(house: House) -> None:
    script = Path(sys.executable).with_name("rollhouse")
    command = [script, "sql", "select count(*) as n from rollouts", "--format", "json"]
    done = subprocess.run(command, env=os.environ | {"ROLLHOUSE_HOUSE": house.uri}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '[{"n": 4}]\n', "")


def test_every_reading_command_takes_at(tmp_path: Path) -> None:
    """`--at` names the same past for all: what came after the snapshot is not there."""
    house = ["--house", str(tmp_path / "house")]
    collect = ["collect", "--env", "workplace-mini", "--engine", "scripted", "--limit", "2", *house]
    for arguments in ([*collect, "--run", "one", "--snapshot", "then"], [*collect, "--run", "two"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0

    def shown(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, *house, "--at", "then"])
        return f"{result.exit_code} {result.output}"

    listed = shown("runs", "list")
    assert "one" in listed and "two" not in listed
    for command in (["runs", "show", "two"], ["lineage", "two"], ["report", "two", "--out", str(tmp_path / "r.html")]):
        assert shown(*command).startswith("2 "), command
    assert shown("lineage", "one").startswith("0 ")
    assert shown("dataset", "list").startswith("0 ")
