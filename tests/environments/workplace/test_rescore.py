"""Stored rollouts get verdicts; asking again adds none."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError, EvaluationError
from rollhouse.cli.main import app
from rollhouse.collect.rescore import rescore
from rollhouse.collect.runner import collect
from rollhouse.environments.scorers import function_scorer, open_scorer
from rollhouse.environments.types import Environment
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.interop.nemo_gym import import_nemo_gym
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.task import Score, Task
from rollhouse.tests.environments.workplace.scorers_of_a_user import deadly, short
from rollhouse.tests.office import task_line
from typer.testing import CliRunner


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def collect_scripted(store: LanceStore, environment: Environment, mistake_rate: float, limit: int = 9) -> None:
    with start_run(store, "collect", f"scripted-{mistake_rate}") as run:
        tasks = list(environment.tasks("train"))[:limit]
        collect(store, run, environment, ScriptedPolicy(mistake_rate), tasks, num_repeats=2)


@pytest.mark.parametrize("name", ["workplace", "workplace-mini"])
def test_the_verdict_is_the_one_of_collection(store: LanceStore, environment: WorkplaceEnvironment, name: str) -> None:
    chosen: Environment = environment if name == "workplace" else MiniEnvironment()
    collect_scripted(store, chosen, 0.5)
    summary = rescore(store, chosen)
    rollouts = {row["rollout_id"]: row["reward"] for row in store.read("rollouts").to_pylist()}
    scores = {row["rollout_id"]: row["reward"] for row in store.read("scores").to_pylist()}
    assert scores == rollouts and len(set(scores.values())) == 2
    assert (summary.scored, summary.new, summary.moved) == (len(rollouts), len(rollouts), 0)
    assert summary.passed == sum(reward == 1.0 for reward in rollouts.values())

    again = rescore(store, chosen)
    assert (again.scored, again.new) == (len(rollouts), 0)
    assert store.read("scores").num_rows == len(rollouts)


def test_other_tables_give_verdicts_of_their_own(store: LanceStore, environment: WorkplaceEnvironment, tables: Path, tmp_path: Path) -> None:  # fmt: skip
    collect_scripted(store, environment, 0.0)
    rescore(store, environment)
    for file in tables.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("Harbour", "Haven"))
    summary = rescore(store, WorkplaceEnvironment(tmp_path), of_run="scripted-0.0")
    assert summary.new == summary.scored == 6
    assert len({row["config_hash"] for row in store.read("scores").to_pylist()}) == 2


def test_what_failed_or_has_no_truth_is_left_out(store: LanceStore, environment: WorkplaceEnvironment) -> None:
    collect_scripted(store, environment, 0.0, limit=1)
    row = store.read("rollouts").to_pylist()[0]
    failed = {**row, "rollout_id": "f", "slot_id": "f", "status": "error", "reward": None}
    unknown = {**row, "rollout_id": "u", "slot_id": "u", "task_id": "nowhere", "prompt_id": "nowhere"}
    append_rows(store, "rollouts", [failed, unknown])
    summary = rescore(store, environment)
    assert (summary.scored, summary.left_out) == (2, {"error": 1, "no_truth": 1})


def test_an_import_without_truth_finds_the_one_task_of_its_prompt(
    store: LanceStore, environment: WorkplaceEnvironment, tasks_file: Path, tmp_path: Path
) -> None:
    task = json.loads(tasks_file.read_text().splitlines()[0])
    call = {"type": "function_call", "call_id": "c", **task["ground_truth"][0]}
    file = tmp_path / "rollouts.jsonl"
    row = {"responses_create_params": task["responses_create_params"], "response": {"output": [call]}, "reward": 0.0}
    file.write_text(json.dumps(row) + "\n")
    import_nemo_gym(store, file, environment="workplace")
    assert rescore(store, environment).left_out == {"no_truth": 1}
    collect_scripted(store, environment, 0.0)
    summary = rescore(store, environment)
    assert (summary.left_out, summary.passed, summary.moved) == ({}, 7, 1)


USERS = "rollhouse.tests.environments.workplace.scorers_of_a_user"


def test_several_processes_give_the_same_verdicts(store: LanceStore) -> None:
    chosen = MiniEnvironment()
    collect_scripted(store, chosen, 0.5, limit=150)
    seen: list[tuple[int, int]] = []
    summary = rescore(store, chosen, workers=2, on_progress=lambda done, total: seen.append((done, total)))
    rollouts = {row["rollout_id"]: row["reward"] for row in store.read("rollouts").to_pylist()}
    assert {row["rollout_id"]: row["reward"] for row in store.read("scores").to_pylist()} == rollouts
    assert (summary.scored, summary.new) == (len(rollouts), len(rollouts)) and len(rollouts) == 300
    assert seen[-1] == (300, 300) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_interrupted_rescoring_goes_on_where_it_was(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = MiniEnvironment()
    collect_scripted(store, chosen, 0.5, limit=200)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rescore(store, chosen, name="again", workers=1, on_progress=stop)
    there = store.read("scores").num_rows
    assert 0 < there < 400
    judged: list[str] = []
    start = MiniEnvironment.start
    monkeypatch.setattr(MiniEnvironment, "start", lambda self, task: judged.append("") or start(self, task))
    summary = rescore(store, chosen, name="again", workers=1)
    assert (summary.run_id, summary.scored, summary.new) == ("again", 400, 400 - there)
    # What had a verdict was not judged again, but for one rollout that tells the scorer's name.
    assert len(judged) == 400 - there + 1
    assert store.read("scores").num_rows == 400


def test_any_function_is_a_scorer(store: LanceStore) -> None:
    collect_scripted(store, MiniEnvironment(), 0.5)
    summary = rescore(store, function_scorer(f"{USERS}:short"))
    scores = store.read("scores").to_pylist()
    turns = {row["rollout_id"]: row["n_turns"] for row in store.read("rollouts").to_pylist()}
    assert {row["rollout_id"]: row["reward"] for row in scores} == {id: float(n <= 2) for id, n in turns.items()}
    assert (summary.scorer, summary.scorer_version, summary.environment) == ("short", "1", None)
    assert scores[0]["components"] == [{"name": "turns", "value": turns[scores[0]["rollout_id"]], "weight": 1.0}]


def test_a_function_of_a_file_is_a_scorer_in_other_processes_too(store: LanceStore) -> None:
    collect_scripted(store, MiniEnvironment(), 0.5, limit=10)
    file = Path(__file__).with_name("scorers_of_a_user.py")
    summary = rescore(store, open_scorer(f"{file}:short"), workers=2)
    assert (summary.scorer, summary.scored) == ("short", store.read("rollouts").num_rows)


def test_a_function_that_breaks_or_says_nothing_is_counted(store: LanceStore) -> None:
    collect_scripted(store, MiniEnvironment(), 0.5)
    summary = rescore(store, function_scorer(f"{USERS}:picky"))
    solved = sum(row["passed"] for row in store.read("rollouts").to_pylist())
    assert 0 < solved < 18
    assert summary.left_out == {"no_verdict": solved, "scorer_error ValueError": 18 - solved}
    assert (summary.scored, summary.scorer) == (0, None) and store.read("scores").num_rows == 0


def test_a_process_that_dies_is_told(store: LanceStore) -> None:
    collect_scripted(store, MiniEnvironment(), 0.5, limit=2)
    # The first verdict is asked for in this process, to learn the scorer's name: give it one.
    judge = replace(function_scorer(f"{USERS}:deadly"), judge=DiesElsewhere())
    with pytest.raises(EvaluationError, match=f"{USERS}:deadly died"):
        rescore(store, judge, workers=2)


class DiesElsewhere:
    """A judge that ends every process but the one that made it."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __call__(self, task: Task | None, rollout: dict[str, Any]) -> Score | None:
        return short(task, rollout) if os.getpid() == self.home else deadly(task, rollout)


@pytest.mark.parametrize("path", ["nowhere.at.all:f", f"{USERS}:nix", f"{USERS}:", f"{USERS}:os"])
def test_a_function_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=r"scorers_of_a_user|nowhere"):
        function_scorer(path)


def test_moves_are_shown_by_the_command(store: LanceStore, environment: WorkplaceEnvironment, tables: Path, tmp_path: Path) -> None:  # fmt: skip
    collect_scripted(store, environment, 0.0)
    common = ("--store", store.uri, "--format", "json")
    result = rollhouse("rescore", "--scorer", f"{USERS}:short", "--compare", *common)
    assert result.exit_code == 0, result.output
    turns = [row["n_turns"] for row in store.read("rollouts").to_pylist()]
    moves = {(row["before"], row["after"]): row["rollouts"] for row in json.loads(result.stdout)}
    failed = sum(n > 2 for n in turns)
    wanted = {("passed", "failed"): failed, ("passed", "passed"): len(turns) - failed}
    assert moves == {move: n for move, n in wanted.items() if n}
    result = rollhouse(
        "rescore", "--scorer", "workplace", "--tables", tables, "--compare", "--against", "short@1", *common
    )
    assert {(row["before"], row["after"]) for row in json.loads(result.stdout)} == {(a, "passed") for _, a in moves}
    result = rollhouse("query", "pass_rate_by_task", "--scorer", "short@1", *common)
    assert sum(row["passed"] for row in json.loads(result.stdout)) == len(turns) - failed


def rollhouse(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command(store: LanceStore, environment: WorkplaceEnvironment, tables: Path) -> None:
    collect_scripted(store, environment, 0.0)
    common = ("rescore", "--scorer", "workplace", "--tables", tables, "--store", store.uri, "--format", "json")
    result = rollhouse(*common)
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert (row["scored"], row["new"], row["passed"], row["moved"]) == (6, 6, 6, 0)
    assert json.loads(rollhouse(*common).stdout)[0]["new"] == 0
    query = "select count(*) as n, avg(reward) as mean from latest_scores where scorer = 'workplace'"
    assert json.loads(rollhouse("sql", query, "--store", store.uri, "--format", "json").stdout) == [
        {"n": 6, "mean": 1.0}
    ]
    kinds = json.loads(rollhouse("sql", "select kind, status from runs order by 1", "--store", store.uri, "--format", "json").stdout)  # fmt: skip
    assert kinds == [{"kind": "collect", "status": "finished"}] + [{"kind": "rescore", "status": "finished"}] * 2


def test_the_lenient_verdict_stands_beside_the_strict_one(store: LanceStore, tables: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    event = {"event_name": "Tea", "participant_email": "a@b.c", "event_start": "2023-12-02 10:00:00", "duration": "30"}
    file.write_text(json.dumps(task_line(0, "Tea with A", [("calendar_create_event", event)])) + "\n")
    environment = WorkplaceEnvironment(tables, file)
    collect_scripted(store, environment, 0.0)
    row = store.read("rollouts").to_pylist()[0]
    for message in row["messages"]:
        for call in message["tool_calls"] or ():
            call["arguments"] = json.dumps(event | {"event_start": "2023-12-02T10:00"})
    append_rows(store, "rollouts", [{**row, "rollout_id": "t", "slot_id": "t"}])
    for scorer in ("workplace", "workplace-lenient"):
        result = rollhouse("rescore", "--scorer", scorer, "--tables", tables, "--store", store.uri, "--format", "json")
        assert result.exit_code == 0, result.output
    scores = {(row["rollout_id"], row["scorer"]): row["passed"] for row in store.read("scores").to_pylist()}
    assert (scores["t", "workplace"], scores["t", "workplace-lenient"]) == (False, True)
    assert len(scores) == 6 and sum(scores.values()) == 5


class Waits:
    """An environment whose sessions take their time to judge and to close."""

    name = "workplace-mini"

    def __init__(self) -> None:
        self.mini, self.closed = MiniEnvironment(), 0
        self.tasks = self.mini.tasks

    def start(self, task: Task) -> Any:
        session, owner = self.mini.start(task), self

        class Slow:
            step = session.step

            async def verify(self) -> Score:
                score = session.verify()
                assert isinstance(score, Score)
                return await asyncio.sleep(0, score)

            async def close(self) -> None:
                owner.closed += 1

        return Slow()


def test_a_verdict_may_be_waited_for(store: LanceStore) -> None:
    waits = Waits()
    collect_scripted(store, MiniEnvironment(), 0.0)
    summary = rescore(store, waits, workers=1)
    assert (summary.scored, summary.passed) == (18, 18) and waits.closed >= 18


def test_the_command_refuses_politely(store: LanceStore, tmp_path: Path) -> None:
    for scorer, place, expected in (
        ("workplace", tmp_path / "no", "There is no store"),
        ("workplace", store.uri, "--tables"),
        ("magic", store.uri, "'magic'"),
    ):
        result = rollhouse("rescore", "--scorer", scorer, "--store", place)
        assert result.exit_code == 2 and expected in result.stderr
