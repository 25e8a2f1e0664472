"""The lenient verdict: forgives order and spelling, never a value or an effect."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError
from rollhouse.environments.tasks_file import task_from_row
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace.lenient import same_work
from rollhouse.environments.workplace.toolbox import TOOLS
from rollhouse.environments.workplace.verifier import replay, same_state
from rollhouse.store.messages import ToolCall
from rollhouse.tests.environments.workplace.test_verifier import (
    add,
    changed,
    create_event,
    create_task,
    delete_customer,
    delete_event,
    delete_mail,
    delete_task,
    plot,
    send,
)
from rollhouse.tests.office import task_line

Call = tuple[str, dict[str, Any]]

move = (
    "calendar_update_event",
    {"event_id": "00000001", "field": "event_start", "new_value": "2023-12-04 10:00:00"},
)
shorten = ("calendar_update_event", {"event_id": "00000003", "field": "duration", "new_value": "15"})
other_event = changed(create_event, event_name="Lunch")
# A task is only given to somebody who has one, so a creation may depend on what was deleted before.
for_ben = changed(create_task, assigned_to_email="ben.orr@north.example")
drop_new = ("project_management_delete_task", {"task_id": "00000003"})

FORGIVEN = {
    "sends swapped": ([send, changed(send, body="c")], [changed(send, body="c"), send]),
    "plots swapped": ([plot, changed(plot, plot_type="line")], [changed(plot, plot_type="line"), plot]),
    "creations swapped": ([add, changed(add, status="Won")], [changed(add, status="Won"), add]),
    "deletion and creation swapped: mail": ([delete_mail, send], [send, delete_mail]),
    "deletion and creation swapped: task": ([delete_task, for_ben], [for_ben, delete_task]),
    "deletion and creation swapped: customer": ([delete_customer, add], [add, delete_customer]),
    "the id that an earlier creation took": (
        [create_event, other_event, shorten],
        [other_event, create_event, changed(shorten, event_id="00000004")],
    ),
    "T in a time": ([create_event], [changed(create_event, event_start="2023-12-02T10:00:00")]),
    "no seconds": ([create_event], [changed(create_event, event_start="2023-12-02 10:00")]),
    "T, no seconds, in an update": ([move], [changed(move, new_value="2023-12-04t10:00")]),
    "T in a plot's bounds": (
        [changed(plot, time_min="2023-11-01 00:00:00")],
        [changed(plot, time_min="2023-11-01T00:00")],
    ),
    "duration as number": ([create_event], [changed(create_event, duration=30)]),
    "whole number with a point": ([create_event], [changed(create_event, duration=30.0)]),
    "notes null or left out": ([add], [changed(add, notes=None)]),
    "empty or left out": ([add], [changed(add, customer_email="")]),
    "text in another case": ([send], [changed(send, subject="S", recipient="A@B.C")]),
}
NOT_FORGIVEN = {
    "nothing done": ([send], []),
    "something extra": ([send], [send, plot]),
    "sent twice": ([send], [send, send]),
    "plotted twice": ([plot], [plot, plot]),
    "another value": ([send], [changed(send, body="c")]),
    "another minute": ([create_event], [changed(create_event, event_start="2023-12-02T10:01:00")]),
    "another second": ([create_event], [changed(create_event, event_start="2023-12-02 10:00:01")]),
    "afternoon": (
        [changed(create_event, event_start="2023-12-02 10:00")],
        [changed(create_event, event_start="2023-12-02 10:00 PM")],
    ),
    "another zone": ([create_event], [changed(create_event, event_start="2023-12-02T10:00:00Z")]),
    "a day for a time": (
        [changed(add, follow_up_by="2023-12-02 23:59:00")],
        [changed(add, follow_up_by="2023-12-02")],
    ),
    "another duration": ([create_event], [changed(create_event, duration=45)]),
    "another row deleted": ([delete_mail], [changed(delete_mail, email_id="00000001")]),
    "another row changed": ([move], [changed(move, event_id="00000002")]),
    "a new row where an old one was": ([], [delete_event, changed(create_event, event_name="Budget talk")]),
    "created and not deleted again": ([create_task, drop_new], [create_task]),
    "status in another case": ([add], [changed(add, status="lead")]),
    "swapped contents": (
        [send, changed(send, subject="t", body="c")],
        [changed(send, subject="t"), changed(send, body="c")],
    ),
}

Verdict = Callable[[list[Call], list[Call]], tuple[bool, bool]]


@pytest.fixture(scope="module")
def verdicts(environment: WorkplaceEnvironment) -> Verdict:
    """The strict and the lenient verdict on two lists of calls."""

    def judge(truth: list[Call], done: list[Call]) -> tuple[bool, bool]:
        left, right = (
            replay(environment.office, [(name, json.dumps(arguments)) for name, arguments in calls])
            for calls in (truth, done)
        )
        return same_state(left, right), same_work(left, right)

    return judge


@pytest.mark.parametrize("case", FORGIVEN)
def test_forgiven(verdicts: Verdict, case: str) -> None:
    assert verdicts(*FORGIVEN[case])[1]


@pytest.mark.parametrize("case", NOT_FORGIVEN)
def test_not_forgiven(verdicts: Verdict, case: str) -> None:
    assert verdicts(*NOT_FORGIVEN[case]) == (False, False)


KNOWN = [create_event, other_event, delete_event, send, delete_mail, create_task, delete_task, drop_new, add, delete_customer, plot, move, shorten]  # fmt: skip
VALUES = st.sampled_from(["00000000", "00000002", "00000003", "3", "2023-12-02 10:00", "2023-12-02T10:00:00", 30, "30", "Lead", None, ""])  # fmt: skip
CALLS = st.lists(
    st.one_of(
        st.sampled_from(KNOWN),
        st.sampled_from(KNOWN).flatmap(
            lambda call: st.tuples(st.just(call[0]), st.fixed_dictionaries(dict.fromkeys(call[1], VALUES)))
        ),
    ),
    max_size=5,
)


@settings(deadline=None)
@given(CALLS, CALLS, st.randoms(use_true_random=False))
def test_what_is_strictly_solved_is_solved(verdicts: Verdict, truth: list[Call], done: list[Call], random: Any) -> None:
    shuffled = random.sample(truth, len(truth))
    for other in (done, shuffled, truth):
        strict, lenient = verdicts(truth, other)
        assert lenient or not strict
        assert verdicts(other, truth) == (strict, lenient)
    assert verdicts(truth, truth) == (True, True)


@settings(deadline=None)
@given(st.lists(st.sampled_from([send, changed(send, body="c"), create_event, other_event, add, plot, delete_mail]), max_size=5).flatmap(lambda calls: st.tuples(st.just(calls), st.permutations(calls))))  # fmt: skip
def test_independent_work_in_any_order_is_the_same(verdicts: Verdict, orders: tuple[list[Call], list[Call]]) -> None:
    assert verdicts(*orders)[1]


def test_real_sequences_differ_only_in_what_is_forgiven(conformance: Path) -> None:
    strict = WorkplaceEnvironment(conformance / "tables", conformance / "tasks.jsonl")
    lenient = WorkplaceEnvironment(conformance / "tables", verifier="lenient")
    tasks = {task.source_key: task for task in strict.tasks("train")}
    forgiven = set()
    for line in (conformance / "verdicts.jsonl").open():
        row = json.loads(line)
        calls = [ToolCall("", call["name"], call["arguments"]) for call in row["calls"]]
        task = tasks[str(row["task_id"])]
        solved, forgave = strict.score(task, calls).passed, lenient.score(task, calls).passed
        assert forgave or not solved
        if forgave != solved:
            forgiven.add(row["kind"])
    assert forgiven == {"iso_T", "reversed"}


def test_the_verdict_is_signed_with_its_own_name(environment: WorkplaceEnvironment, tables: Path) -> None:
    lenient = WorkplaceEnvironment(tables, verifier="lenient")
    task = next(iter(environment.tasks("train")))
    score = lenient.score(task, [ToolCall("", name, entry) for name, entry in _truth(task.ground_truth)])
    assert (score.scorer, score.scorer_version, score.passed) == ("workplace-lenient", "1", True)
    assert lenient.state_hash == environment.state_hash
    with pytest.raises(ConfigError, match="strict, lenient, both"):
        WorkplaceEnvironment(tables, verifier="kind")
    assert all(tool.takes_patterns == (("search" in name and "email" not in name) or "find" in name) for name, tool in TOOLS.items())  # fmt: skip


def test_both_verdicts_can_be_had_at_once(tables: Path) -> None:
    both = WorkplaceEnvironment(tables, verifier="both")
    truth = [send, changed(send, body="c")]
    task = task_from_row(task_line(0, "Write two", truth), "workplace")
    swapped = [ToolCall("", name, json.dumps(arguments)) for name, arguments in reversed(truth)]
    score = both.score(task, swapped)
    assert (score.reward, score.scorer, score.components) == (0.0, "workplace", (("lenient", 1.0, 0.0),))
    assert both.score(task, swapped[:1]).components == (("lenient", 0.0, 0.0),)


def _truth(entries: Any) -> list[tuple[str, str]]:
    return [(entry["name"], entry["arguments"]) for entry in entries]
