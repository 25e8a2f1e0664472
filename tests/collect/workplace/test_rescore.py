"""Stored rollouts get verdicts; asking again adds none."""

import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from rollhouse.collect.environments.workplace import WorkplaceEnvironment
from rollhouse.collect.environments.workplace_mini import MiniEnvironment
from rollhouse.collect.policies import ScriptedPolicy
from rollhouse.collect.rescore import rescore
from rollhouse.collect.runner import collect
from rollhouse.collect.types import Environment
from rollhouse.interop.nemo_gym import import_nemo_gym
from rollhouse.store.house import House
from rollhouse.store.runs import start_run
from typer.testing import CliRunner


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House.create(tmp_path / "house")


def collect_scripted(house: House, environment: Environment, mistake_rate: float, limit: int = 9) -> None:
    with start_run(house, "collect", f"scripted-{mistake_rate}") as run:
        tasks = list(environment.tasks("train"))[:limit]
        collect(house, run, environment, ScriptedPolicy(mistake_rate), tasks, num_repeats=2)


@pytest.mark.parametrize("name", ["workplace", "workplace-mini"])
def test_the_verdict_is_the_one_of_collection(house: House, environment: WorkplaceEnvironment, name: str) -> None:
    chosen: Environment = environment if name == "workplace" else MiniEnvironment()
    collect_scripted(house, chosen, 0.5)
    summary = rescore(house, chosen)
    rollouts = {row["rollout_id"]: row["reward"] for row in house.read("rollouts").to_pylist()}
    scores = {row["rollout_id"]: row["reward"] for row in house.read("scores").to_pylist()}
    assert scores == rollouts and len(set(scores.values())) == 2
    assert (summary.scored, summary.new, summary.moved) == (len(rollouts), len(rollouts), 0)
    assert summary.passed == sum(reward == 1.0 for reward in rollouts.values())

    again = rescore(house, chosen)
    assert (again.scored, again.new) == (len(rollouts), 0)
    assert house.read("scores").num_rows == len(rollouts)


def test_other_tables_give_verdicts_of_their_own(house: House, environment: WorkplaceEnvironment, tables: Path, tmp_path: Path) -> None:  # fmt: skip
    collect_scripted(house, environment, 0.0)
    rescore(house, environment)
    for file in tables.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("Harbour", "Haven"))
    summary = rescore(house, WorkplaceEnvironment(tmp_path), of_run="scripted-0.0")
    assert summary.new == summary.scored == 6
    assert len({row["config_hash"] for row in house.read("scores").to_pylist()}) == 2


def test_what_failed_or_has_no_truth_is_left_out(house: House, environment: WorkplaceEnvironment) -> None:
    collect_scripted(house, environment, 0.0, limit=1)
    row = house.read("rollouts").to_pylist()[0]
    failed = {**row, "rollout_id": "f", "slot_id": "f", "status": "error", "reward": None}
    unknown = {**row, "rollout_id": "u", "slot_id": "u", "task_id": "nowhere", "prompt_id": "nowhere"}
    house.append("rollouts", [failed, unknown])
    summary = rescore(house, environment)
    assert (summary.scored, summary.left_out) == (2, {"error": 1, "no_truth": 1})


def test_an_import_without_truth_finds_the_one_task_of_its_prompt(
    house: House, environment: WorkplaceEnvironment, tasks_file: Path, tmp_path: Path
) -> None:
    task = json.loads(tasks_file.read_text().splitlines()[0])
    call = {"type": "function_call", "call_id": "c", **task["ground_truth"][0]}
    file = tmp_path / "rollouts.jsonl"
    row = {"responses_create_params": task["responses_create_params"], "response": {"output": [call]}, "reward": 0.0}
    file.write_text(json.dumps(row) + "\n")
    import_nemo_gym(house, file, environment="workplace")
    assert rescore(house, environment).left_out == {"no_truth": 1}
    collect_scripted(house, environment, 0.0)
    summary = rescore(house, environment)
    assert (summary.left_out, summary.passed, summary.moved) == ({}, 7, 1)


def rollhouse(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command(house: House, environment: WorkplaceEnvironment, tables: Path) -> None:
    collect_scripted(house, environment, 0.0)
    common = ("rescore", "--scorer", "workplace", "--tables", tables, "--house", house.uri, "--format", "json")
    result = rollhouse(*common)
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert (row["scored"], row["new"], row["passed"], row["moved"]) == (6, 6, 6, 0)
    assert json.loads(rollhouse(*common).stdout)[0]["new"] == 0
    query = "select count(*) as n, avg(reward) as mean from latest_scores where scorer = 'workplace'"
    assert json.loads(rollhouse("sql", query, "--house", house.uri, "--format", "json").stdout) == [
        {"n": 6, "mean": 1.0}
    ]
    kinds = json.loads(rollhouse("sql", "select kind, status from runs order by 1", "--house", house.uri, "--format", "json").stdout)  # fmt: skip
    assert kinds == [{"kind": "collect", "status": "finished"}] + [{"kind": "rescore", "status": "finished"}] * 2


def test_the_command_refuses_politely(house: House, tmp_path: Path) -> None:
    for scorer, place, says in (
        ("workplace", tmp_path / "no", "There is no house"),
        ("workplace", house.uri, "--tables"),
        ("magic", house.uri, "'magic'"),
    ):
        result = rollhouse("rescore", "--scorer", scorer, "--house", place)
        assert result.exit_code == 2 and says in result.stderr
