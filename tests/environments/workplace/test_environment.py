"""Tasks from a file, and sessions as the agent loop runs them."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import FormatError
from rollhouse.collect.episode import Slot
from rollhouse.environments.tasks_file import load_tasks, task_from_row
from rollhouse.environments.tools import ToolSession
from rollhouse.environments.types import Done
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Score, Task
from rollhouse.tests.episodes import run_episode


def first_task(environment: WorkplaceEnvironment) -> Task:
    return next(iter(environment.tasks("train")))


def turn(*calls: ToolCall, text: str | None = None, stop_reason: str = "stop", reasoning: str | None = None) -> Turn:
    return Turn(Message("assistant", text, calls, reasoning=reasoning), stop_reason=stop_reason)


def verdict(session: ToolSession) -> Score:
    """What the session's verifier says, at once."""
    score = session.verify()
    assert isinstance(score, Score)
    return score


DELETE = ToolCall("c1", "email_delete_email", '{"email_id": "00000000"}')


def test_a_session_answers_calls_and_ends_with_a_message(environment: WorkplaceEnvironment) -> None:
    session = environment.start(first_task(environment))
    assert verdict(session).reward == 0.0
    answers = asyncio.run(session.step(turn(DELETE)))
    assert answers == [Message("tool", '{"output":"Email deleted successfully."}', tool_call_id="c1")]
    assert asyncio.run(session.step(turn(text="Done."))) == Done("stop")
    score = verdict(session)
    assert (score.reward, score.passed, score.scorer) == (1.0, True, "workplace")
    session.close()


def messages(step: Coroutine[Any, Any, list[Message] | Done]) -> list[Message]:
    """What a step answered; the episode is not over."""
    answer = asyncio.run(step)
    assert not isinstance(answer, Done)
    return answer


def test_sessions_do_not_see_each_other(environment: WorkplaceEnvironment) -> None:
    one, other = environment.start(first_task(environment)), environment.start(first_task(environment))
    for session in (one, other):
        [answer] = messages(session.step(turn(DELETE)))
        assert answer.text == '{"output":"Email deleted successfully."}'


def test_arguments_that_do_not_parse_are_answered_and_counted(environment: WorkplaceEnvironment) -> None:
    session = environment.start(first_task(environment))
    [answer] = messages(session.step(turn(ToolCall("c", "email_delete_email", '{"email_id": '))))
    assert json.loads(answer.text or "") == {
        "error": "Invalid tool call arguments: JSONDecodeError('Expecting value: line 1 column 14 (char 13)')"
    }
    [missing] = messages(session.step(turn(ToolCall("d", "nope", "{}"))))
    assert missing.text == "{\"output\":\"Error executing tool 'nope': 'nope'\"}"
    assert session.n_tool_errors == 2


class Searches:
    """Searches until its last turn, in which it solves the first task."""

    engine, policy_id = "scripted", "searches"
    token_identity, version = None, 0

    def __init__(self, turns: int) -> None:
        self.turns = turns

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        self.turns -= 1
        return turn(ToolCall("s", "email_search_emails", "{}") if self.turns else DELETE)


@pytest.mark.parametrize(("turns", "options"), [(6, {}), (9, {"max_turns": 9})])
def test_the_last_turn_is_executed(environment: WorkplaceEnvironment, turns: int, options: dict[str, int]) -> None:
    task = first_task(environment)
    slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
    row = asyncio.run(run_episode(environment, Searches(turns), slot, Sampling(), **options))
    assert (row["stop_reason"], row["n_turns"], row["passed"]) == ("max_turns", turns, True)
    assert row["messages"][-1]["text"] == '{"output":"Email deleted successfully."}'


def test_reasoning_alone_goes_on_and_a_cut_turn_does_not(environment: WorkplaceEnvironment) -> None:
    session = environment.start(first_task(environment))
    assert asyncio.run(session.step(turn(reasoning="Let me think."))) == []
    assert asyncio.run(session.step(turn(DELETE, stop_reason="length"))) == Done("length")


def test_null_is_dropped_in_a_session_but_not_in_the_verdict(tables: Path) -> None:
    arguments = {"customer_name": "Fay", "assigned_to_email": "a@b.c", "status": "Lead"}
    name = "customer_relationship_manager_add_customer"
    row = {
        "responses_create_params": {"input": "Add Fay"},
        "ground_truth": [{"name": name, "arguments": json.dumps(arguments)}],
    }
    environment = WorkplaceEnvironment(tables)
    session = environment.start(task_from_row(row, "workplace"))
    call = ToolCall("c", name, json.dumps({**arguments, "notes": None}))
    assert asyncio.run(session.step(turn(call))) == [Message("tool", '{"output":"00000002"}', tool_call_id="c")]
    assert not verdict(session).passed


def test_rows_become_tasks_with_all_they_said(
    environment: WorkplaceEnvironment, tables: Path, tasks_file: Path
) -> None:
    task = first_task(environment)
    assert (task.environment, task.source_key, task.category, task.split) == ("workplace", "0", "office", "train")
    assert [message.role for message in task.messages] == ["system", "user"]
    assert task.tools[0]["function"] == {"name": "email_delete_email", "parameters": {}, "strict": False}
    assert task.extra["responses_create_params"] == {"temperature": 1.0}
    assert len(list(environment.tasks("train"))) == 3 and list(environment.tasks("validation")) == []
    held_out = WorkplaceEnvironment(tables, tasks_file, tasks_split="validation")
    assert [task.split for task in held_out.tasks("validation")] == ["validation"] * 3
    assert list(held_out.tasks("train")) == []


def test_a_row_may_name_its_split_and_nest_its_truth(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    row = {"responses_create_params": {"input": "Hi"}, "verifier_metadata": {"ground_truth": [1], "category": "c"}}
    path.write_text(json.dumps({**row, "split": "test"}) + "\n\n" + json.dumps(row))
    first, second = load_tasks(path, "any", "validation")
    assert (first.split, second.split) == ("test", "validation")
    assert (second.ground_truth, second.category) == ([1], "c")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"id": 1}', "'responses_create_params' is missing"),
        ('{"responses_create_params": {"input": [{"type": "function_call"}]}}', "input[0].name is missing"),
        ('{"responses_create_params": {"input": "half a pair \\ud800"}}', "surrogates not allowed"),
        (b'{"responses_create_params": {"input": "\xff"}}', "invalid start byte"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str | bytes, reason: str) -> None:
    path = tmp_path / "tasks.jsonl"
    broken = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"responses_create_params": {"input": "Hi"}}\n' + broken + b"\n")
    with pytest.raises(FormatError) as error:
        load_tasks(path, "any")
    assert f"Line 2 of {path}" in error.value.message and reason in error.value.message


def test_no_tasks_file(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no tasks file"):
        load_tasks(tmp_path / "none.jsonl", "any")
