"""math from the front: sessions, collection, scoring again, and what the scripted policy makes of it."""

import asyncio
import json
import pickle
import sys
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, MissingExtra
from rollhouse.cli.main import app
from rollhouse.environments.math import MathEnvironment
from rollhouse.environments.types import Done
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Score, Task
from typer.testing import CliRunner

SEVEN = Task("math", (Message("user", "3 + 4?"),), (), "7")


def run(*arguments: str) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def play(*turns: Turn, task: Task = SEVEN) -> tuple[list, Score, str | None]:
    """What a session answered to each turn, its verdict, and the answer it found."""

    async def episode() -> tuple[list, Score, str | None]:
        session = MathEnvironment().start(task)
        answers = [await session.step(turn) for turn in turns]
        return answers, await session.verify(), session.extracted_answer

    return asyncio.run(episode())


def said(text: str | None, **more: object) -> Turn:
    return Turn(Message("assistant", text, **more))  # type: ignore[arg-type]


def test_one_turn_and_its_verdict() -> None:
    answers, score, extracted = play(said(r"\boxed{7}"))
    assert answers == [Done("stop")]
    assert (score.reward, score.passed, score.scorer, extracted) == (1.0, True, "math-verify", "7")
    assert score.components == (("library_reward", 1.0, 1.0),)
    assert score.scorer_version.startswith("2-")


def test_reasoning_is_no_answer_and_alone_no_end() -> None:
    answers, score, extracted = play(said(None, reasoning=r"It is \boxed{7}"), said("I am done."))
    assert answers == [[], Done("stop")]
    assert (score.reward, extracted) == (0.0, None)


def test_a_cut_turn_ends_and_is_judged() -> None:
    answers, score, _ = play(Turn(Message("assistant", r"So \boxed{7} because"), stop_reason="length"))
    assert answers == [Done("length")]
    assert score.reward == 1.0


def test_calls_are_refused_and_all_texts_count() -> None:
    call = said("Let me see: ", tool_calls=(ToolCall("a", "calculator", "{}"),))
    answers, score, _ = play(call, said(r"\boxed{7}"))
    assert answers[0] == [Message("tool", "Error: there is no tool calculator.", tool_call_id="a")]
    assert score.reward == 1.0
    parts = json.dumps([{"type": "text", "text": r"\boxed{"}, {"type": "text", "text": "7}"}])
    assert play(said(None, parts=parts))[1].reward == 1.0


def test_nothing_said_is_a_verdict() -> None:
    assert play()[1].reward == 0.0
    assert play(said(None))[1].reward == 0.0


def test_an_expected_answer_nobody_can_read_is_told_apart() -> None:
    task = Task("math", SEVEN.messages, (), "")
    assert dict((name, value) for name, value, _ in play(said("7"), task=task)[1].components) == {
        "library_reward": 0.0,
        "library_exception": 1.0,
    }


def test_the_script_answers_every_generated_task_and_errs_as_often_as_asked() -> None:
    environment = MathEnvironment()
    tasks = list(environment.tasks("train"))[:55]  # every kind at every level

    async def rewards(mistake_rate: float) -> list[float]:
        policy = ScriptedPolicy(mistake_rate)

        async def one(task: Task) -> float:
            session = environment.start(task)
            await session.step(await policy.respond(Conversation(task), Sampling()))
            return (await session.verify()).reward

        return [await one(task) for task in tasks]  # one at a time: one process that judges

    assert set(asyncio.run(rewards(0.0))) == {1.0}
    assert set(asyncio.run(rewards(1.0))) == {0.0}


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MissingExtra, match=r"math-verify.*\[math\]"):
        MathEnvironment()


def test_an_environment_travels_to_other_processes_and_refuses_wrong_settings() -> None:
    environment = pickle.loads(pickle.dumps(MathEnvironment(seed=3, n_train=7)))
    assert len(list(environment.tasks("train"))) == 7
    with pytest.raises(ConfigError, match="no split"):
        environment.tasks("training")
    with pytest.raises(ConfigError, match="positive"):
        MathEnvironment(limit_s=0)


def test_collect_and_score_again(tmp_path: Path) -> None:
    store, file = str(tmp_path / "store"), tmp_path / "rows.jsonl"
    rows = [{"question": f"{n} + 1?", "answer": n + 1} for n in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = (
        "--env",
        "math",
        "--tasks",
        str(file),
        "--mistake-rate",
        "0.5",
        "--seed",
        "1",
        "--store",
        store,
        "--concurrency",
        "1",
    )
    summary = json.loads(run("collect", *arguments, "--run", "sums", "--format", "json"))
    summary = summary[0] if isinstance(summary, list) else summary
    assert summary["collected"] == 12
    found = SqlStore(store).read("rollouts", ["reward", "passed", "scorer", "status", "n_turns"]).to_pylist()
    assert {row["status"] for row in found} == {"completed"}
    assert {row["n_turns"] for row in found} == {1}
    assert {row["scorer"] for row in found} == {"math-verify"}
    assert 0 < sum(row["passed"] for row in found) < 12
    for new in (12, 0):
        again = json.loads(run("rescore", "--scorer", "math", "--store", store, "--format", "json"))
        again = again[0] if isinstance(again, list) else again
        assert (again["scored"], again["new"], again["moved"]) == (12, new, 0)
    run("rescore", "--scorer", "math-strict", "--store", store)
    stored = SqlStore(store).read("scores", ["scorer", "scorer_version"]).to_pylist()
    assert sorted(row["scorer"] for row in stored) == ["math-strict"] * 12 + ["math-verify"] * 12


def test_generated_tasks_are_written_as_rows_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "made.jsonl"
    run("tasks", "generate", "--env", "math", "--count", "30", "--seed", "2", "--split", "test", "--output", str(file))
    row = json.loads(file.read_text().splitlines()[0])
    assert row["question"] == row["responses_create_params"]["input"][-1]["content"]
    assert row["expected_answer"] == row["ground_truth"]
    made = list(MathEnvironment(seed=2, n_test=30).tasks("test"))
    assert [task.task_id for task in MathEnvironment(file).tasks("test")] == [task.task_id for task in made]
