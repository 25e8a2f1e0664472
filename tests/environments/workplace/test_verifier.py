"""When two ways of working leave the same office behind: the quirks of NeMo Gym's verdict."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace.toolbox import TOOLS
from rollhouse.environments.workplace.verifier import replay, same_state, truth_calls

Call = tuple[str, dict[str, Any]]

EVENT = {"event_name": "Tea", "participant_email": "a@b.c", "event_start": "2023-12-02 10:00:00", "duration": "30"}
MAIL = {"recipient": "a@b.c", "subject": "s", "body": "b"}
TASK = {"task_name": "t", "assigned_to_email": "ada.moss@north.example", "list_name": "Backlog", "due_date": "d", "board": "Design"}  # fmt: skip
CUSTOMER = {"customer_name": "Fay", "assigned_to_email": "a@b.c", "status": "Lead"}
PLOT = {"time_min": "a", "time_max": "b", "value_to_plot": "user_engaged", "plot_type": "bar"}

create_event = ("calendar_create_event", EVENT)
delete_event = ("calendar_delete_event", {"event_id": "00000000"})
send = ("email_send_email", MAIL)
delete_mail = ("email_delete_email", {"email_id": "00000000"})
create_task = ("project_management_create_task", TASK)
delete_task = ("project_management_delete_task", {"task_id": "00000000"})
add = ("customer_relationship_manager_add_customer", CUSTOMER)
delete_customer = ("customer_relationship_manager_delete_customer", {"customer_id": "00000000"})
plot = ("analytics_create_plot", PLOT)


def changed(call: Call, **arguments: Any) -> Call:
    return call[0], call[1] | arguments


SAME = {
    "read-only calls": ([send], [("email_search_emails", {}), send, ("analytics_total_visits_count", {})]),
    "text in another case": ([send], [changed(send, subject="S", recipient="A@B.C")]),
    "an update to what is there": (
        [],
        [("calendar_update_event", {"event_id": "00000000", "field": "duration", "new_value": "60"})],
    ),
    "unknown and failing calls": ([send], [("nope", {}), send, changed(send, copies=2), changed(send, recipient=5)]),
    "created and deleted again: event": ([], [create_event, ("calendar_delete_event", {"event_id": "00000003"})]),
    "created and deleted again: mail": ([], [send, ("email_delete_email", {"email_id": "3"})]),
    "created and deleted again: task": ([], [create_task, ("project_management_delete_task", {"task_id": "00000003"})]),
    "created and deleted again: customer": (
        [],
        [add, ("customer_relationship_manager_delete_customer", {"customer_id": "00000002"})],
    ),
    "deletions swapped": ([delete_mail, ("email_delete_email", {"email_id": "00000001"})],
                          [("email_delete_email", {"email_id": "00000001"}), delete_mail]),
    "deletion and creation swapped: event": ([delete_event, create_event], [create_event, delete_event]),
    "durations as numbers": ([changed(create_event, duration=30)], [changed(create_event, duration=45)]),
    "phone null or left out": ([add], [changed(add, customer_phone=None)]),
}  # fmt: skip
DIFFERENT = {
    "nothing done": ([send], []),
    "sent twice": ([send], [send, send]),
    "plotted twice": ([plot], [plot, plot]),
    "creations swapped": ([send, changed(send, body="c")], [changed(send, body="c"), send]),
    "deletion and creation swapped: mail": ([delete_mail, send], [send, delete_mail]),
    "deletion and creation swapped: task": ([delete_task, create_task], [create_task, delete_task]),
    "deletion and creation swapped: customer": ([delete_customer, add], [add, delete_customer]),
    "T in a time": ([create_event], [changed(create_event, event_start="2023-12-02T10:00:00")]),
    "duration as text or number": ([create_event], [changed(create_event, duration=30)]),
    "notes null or left out": ([add], [changed(add, notes=None)]),
    "status in another case": ([add], [changed(add, status="lead")]),
}


def verdict(environment: WorkplaceEnvironment, truth: list[Call], done: list[Call]) -> bool:
    office = environment.office

    def state(calls: list[Call]) -> Any:
        return replay(office, [(name, json.dumps(arguments)) for name, arguments in calls])

    return same_state(state(truth), state(done))


@pytest.mark.parametrize("case", SAME)
def test_counts_as_the_same(environment: WorkplaceEnvironment, case: str) -> None:
    assert verdict(environment, *SAME[case])


@pytest.mark.parametrize("case", DIFFERENT)
def test_counts_as_different(environment: WorkplaceEnvironment, case: str) -> None:
    assert not verdict(environment, *DIFFERENT[case])


def test_calls_that_cannot_be_read_are_skipped(environment: WorkplaceEnvironment) -> None:
    office = environment.office
    calls = [(send[0], text) for text in ("{", "[1]", "null", "5", "")]
    assert same_state(replay(office, calls), office)
    assert truth_calls("text") == truth_calls([{"name": "x"}, 5, None]) == []


CALLS = st.lists(st.sampled_from([create_event, delete_event, send, delete_mail, create_task, delete_task, add, plot]), max_size=6)  # fmt: skip


@given(CALLS, CALLS)
def test_a_verdict_is_symmetric_and_ignores_what_only_reads(
    environment: WorkplaceEnvironment, left: list[Call], right: list[Call]
) -> None:
    assert verdict(environment, left, left)
    assert verdict(environment, left, right) == verdict(environment, right, left)
    reads = [(name, {}) for name, tool in TOOLS.items() if not tool.writes]
    assert verdict(environment, left, [*reads, *left, *reads])
