import asyncio
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError
from rollhouse.environments.types import Done
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.environments.workplace_mini.office import DOMAINS, TOOLS, ToolError, argument_names, call_tool
from rollhouse.policies.types import Turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Score, Task

TASKS = list(MiniEnvironment(seed=3, n_train=90).tasks("train"))


def play(task: Task, calls: list[dict]) -> tuple[Score, list[str], int]:
    """One call a turn, then a closing message. Returns the verdict, what the tools said and the number of tool errors."""

    async def episode() -> tuple[Score, list[str], int]:
        session = MiniEnvironment().start(task)
        output = []
        for call in calls:
            turn = Turn(Message("assistant", None, (ToolCall("c", call["name"], call["arguments"]),)))
            answers = await session.step(turn)
            assert isinstance(answers, list)
            output += [answer.text for answer in answers]
        assert isinstance(await session.step(Turn(Message("assistant", "Done."))), Done)
        score, errors = session.verify(), session.n_tool_errors
        assert isinstance(score, Score)
        session.close()
        return score, output, errors

    return asyncio.run(episode())


@pytest.mark.parametrize("task", TASKS[:27], ids=lambda task: task.category)
def test_the_ground_truth_passes_and_a_missing_last_call_fails(task):
    score, output, errors = play(task, task.ground_truth)
    assert score.reward == 1.0 and score.passed and errors == 0
    assert all(not text.startswith("Error") for text in output)
    score, _, _ = play(task, task.ground_truth[:-1])
    assert score.reward == 0.0 and not score.passed


def test_lookups_are_part_of_the_truth_and_do_not_matter_to_the_verdict():
    task = next(task for task in TASKS if len(task.ground_truth) == 3)
    assert "_search" in task.ground_truth[0]["name"]
    assert play(task, task.ground_truth[1:])[0].passed


def test_doing_it_twice_fails():
    for task in TASKS:
        if task.difficulty == 1.0:
            assert not play(task, task.ground_truth * 2)[0].passed


def test_nine_kinds_in_three_domains_of_one_to_three_calls():
    kinds = Counter(task.category for task in TASKS)
    assert len(kinds) == 9 and set(kinds.values()) == {10}
    assert {len(task.ground_truth) for task in TASKS} == {1, 2, 3}
    offered = {tuple(tool["function"]["name"] for tool in task.tools) for task in TASKS}
    assert offered == {tuple(tool.__name__ for tool in tools) for tools in DOMAINS.values()}


def test_values_are_quoted_alike_in_request_and_call_and_ids_only_in_the_state():
    for task in TASKS:
        request = task.messages[0].text or ""
        for call in task.ground_truth:
            for name, value in json.loads(call["arguments"]).items():
                assert (f'"{value}"' in request) == (not name.endswith("_id"))


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others():
    def ids(seed: int, count: int) -> list[str]:
        return [task.task_id for task in MiniEnvironment(seed=seed, n_train=count).tasks("train")]

    assert ids(0, 40) == ids(0, 40)
    assert ids(0, 80)[:40] == ids(0, 40)
    assert not set(ids(0, 40)) & set(ids(1, 40))


def test_splits_share_no_request_whatever_their_seeds():
    requests = {
        split: {
            task.messages[0].text
            for seed in range(3)
            for task in MiniEnvironment(seed, n_train=300, n_validation=300, n_test=300).tasks(split)
        }
        for split in ("train", "validation", "test")
    }
    assert not requests["train"] & requests["validation"]
    assert not requests["train"] & requests["test"]
    assert not requests["validation"] & requests["test"]
    assert len({task.task_id for task in MiniEnvironment(n_train=300).tasks("train")}) == 300


def test_an_unknown_split_names_the_known_ones():
    with pytest.raises(ConfigError, match="train, validation or test"):
        MiniEnvironment().tasks("dev")


def test_sessions_do_not_share_state():
    task = next(task for task in TASKS if task.category == "cancel_event")
    before = json.dumps(task.state)
    assert play(task, task.ground_truth)[0].passed
    assert play(task, task.ground_truth)[0].passed
    assert json.dumps(task.state) == before


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("no_such_tool", "{}"),
        ("calendar_search", '{"query": "raj"}'),
        ("email_send", '{"recipient": "raj"}'),
        ("email_send", '{"recipient": "raj", "subject": 3, "body": "x"}'),
        ("email_delete", '{"email_id": "0000"}'),
        ("email_search", '{"query": "zzz"}'),
        ("email_search", "[1]"),
        ("email_search", "{not json"),
    ],
)
def test_a_bad_call_is_answered_with_an_error_and_changes_nothing(name, arguments):
    task = next(task for task in TASKS if task.category == "forward_email")
    _, output, errors = play(task, [{"name": name, "arguments": arguments}])
    assert errors == 1 and "rror" in output[0]
    score, _, _ = play(task, [{"name": name, "arguments": arguments}, *task.ground_truth])
    assert score.passed


names = st.sampled_from([*TOOLS, "other"])
values = st.one_of(st.text(max_size=8), st.integers(), st.none(), st.sampled_from(["raj", "1234", "monday"]))


@settings(max_examples=200)
@given(task=st.sampled_from(TASKS), name=names, data=st.data())
def test_a_tool_either_answers_or_refuses_without_changing_anything(task, name, data):
    wanted = argument_names(TOOLS[name]) if name in TOOLS else ["x"]
    arguments = data.draw(st.fixed_dictionaries({key: values for key in wanted}))
    state = json.loads(json.dumps(task.state))
    before = json.dumps(state)
    try:
        json.dumps(call_tool(state, name, arguments))
    except ToolError:
        assert json.dumps(state) == before
