"""What the 27 tools answer, on a small invented office."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError, FormatError
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace.office import read_office
from rollhouse.environments.workplace.sorting import latest_first
from rollhouse.environments.workplace.toolbox import TOOLS, call_tool


def ids(answer: Any, kind: str, key: str) -> list[str]:
    return [row[key] for row in answer[kind]]


def test_there_are_27_tools_of_which_14_write() -> None:
    assert len(TOOLS) == 27
    assert sum(tool.writes for tool in TOOLS.values()) == 14


def test_directory_matches_a_regular_expression_in_any_case(call: Any) -> None:
    name = "company_directory_find_email_address"
    assert call(name, name="MOSS|ray") == ["ada.moss@north.example", "cleo.ray@north.example"]
    assert call(name, name="nobody") == []
    assert call(name) == call(name, name="") == "Name not provided."
    assert call(name, name="(").startswith(f"Error executing tool '{name}': missing ), unterminated subpattern")


def test_email_search_wants_every_word_as_plain_text_newest_first(call: Any) -> None:
    assert ids(call("email_search_emails", query="HARBOUR ada"), "emails", "email_id") == ["00000001", "00000002"]
    assert ids(call("email_search_emails", query="(draft)"), "emails", "email_id") == ["00000000"]
    assert call("email_search_emails", query="h.rbour") == "No emails found."
    assert call("email_search_emails")["pagination"]["total_emails"] == 3
    assert call("email_search_emails", query=5) == "Error searching emails: 'int' object has no attribute 'lower'"


def test_email_days_are_inclusive_and_read_only_when_there_is_something_to_compare(call: Any) -> None:
    found = call("email_search_emails", date_min="2023-11-05", date_max="Nov 5 2023 8am")
    assert ids(found, "emails", "email_id") == ["00000000"]
    wrong = "Error searching emails: Unknown datetime string format, unable to parse: soon"
    assert call("email_search_emails", date_min="soon") == wrong
    assert call("email_search_emails", query="zzz", date_min="soon") == "No emails found."


@pytest.mark.parametrize(
    ("page", "size", "expected"),
    [
        (1, 2, (["00000001", "00000000"], 1, 2)),
        (9, 2, (["00000002"], 2, 2)),
        (-3, 2, (["00000001", "00000000"], 1, 2)),
        (1, 0, "Error searching emails: integer division or modulo by zero"),
        (1, "2", "Error searching emails: unsupported operand type(s) for +: 'int' and 'str'"),
        ("1", 2, "Error searching emails: '<' not supported between instances of 'int' and 'str'"),
    ],
)
def test_pages_are_clamped(call: Any, page: Any, size: Any, expected: Any) -> None:
    answer = call("email_search_emails", page=page, page_size=size)
    if not isinstance(expected, str):
        pagination = answer["pagination"]
        answer = (ids(answer, "emails", "email_id"), pagination["page"], pagination["total_pages"])
    assert answer == expected


def test_mails_of_one_second_come_in_the_order_of_an_unstable_sort(environment: WorkplaceEnvironment) -> None:
    def order(sent: int) -> list[int]:
        office = environment.office.copy()
        for number in range(sent):
            call_tool(office, "email_send_email", {"recipient": "a@b.c", "subject": "s", "body": str(number)})
        found = json.loads(call_tool(office, "email_search_emails", {"query": "a@b.c", "page_size": 50}).text)["output"]
        return [int(body) for body in ids(found, "emails", "body")]

    # Up to sixteen keep their order; what numpy 2.3 makes of eighteen and twenty equal times was recorded.
    assert order(16) == list(range(16))
    assert latest_first([0] * 18) == NUMPYS_18 == order(18)
    assert latest_first([1, 1, 1, *range(2, 17), 20, 20]) == NUMPYS_20


NUMPYS_18 = [0, 1, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 17]
NUMPYS_20 = [19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 1, 2, 0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=60))
def test_sorting_sorts(times: list[int]) -> None:
    places = latest_first(times)
    assert sorted(places) == list(range(len(times)))
    assert [times[place] for place in places] == sorted(times, reverse=True)


def test_sent_mail_is_lower_cased_unpadded_and_always_at_the_same_time(call: Any) -> None:
    assert call("email_send_email", recipient="NoDot@x", subject="a", body="b") == "Invalid recipient email address."
    assert call("email_forward_email", email_id="00000000", recipient="Zed@X.y") == "Email forwarded successfully."
    row = call("email_search_emails", query="zed@x.y")["emails"][0]
    assert row["email_id"] == "3" and row["subject"] == "FW: Budget (draft)" and row["inbox/outbox"] == "outbox"
    assert row["sent_datetime"] == "2023-11-30 23:59:00"
    assert call("email_reply_email", email_id="00000001", body="ok") == "Email replied successfully."
    assert call("email_get_email_information_by_id", email_id="4", field="subject") == {"subject": "RE: Harbour visit"}
    assert call("email_get_email_information_by_id", email_id="4", field="x").endswith("sent_datetime, body")
    assert call("email_delete_email", email_id="4") == "Email deleted successfully."
    assert call("email_delete_email", email_id="4") == "Email not found."


def test_calendar_search_takes_name_or_participant_latest_first(call: Any) -> None:
    assert ids(call("calendar_search_events", query="."), "events", "event_id") == ["00000002", "00000000", "00000001"]
    assert ids(call("calendar_search_events", query="BEN"), "events", "event_id") == ["00000000"]
    # A day as the upper bound means its midnight.
    assert call("calendar_search_events", time_max="2023-12-01") == "No events found."
    assert ids(call("calendar_search_events", time_max="12/01/2023 9am"), "events", "event_id") == ["00000001"]
    assert call("calendar_search_events", time_min="soon").startswith("Invalid time_min format.")
    assert call("calendar_search_events", time_min="2023-12-01 10:00:00Z").endswith(
        "Cannot compare tz-naive and tz-aware timestamps"
    )


def test_calendar_writes_check_what_they_store(call: Any) -> None:
    event = {"event_name": "Tea", "participant_email": "A@B.c", "event_start": "Dec 2 2023 10am", "duration": 30}
    assert call("calendar_create_event", **event | {"duration": "-1"}).startswith("Duration must be a positive")
    assert call("calendar_create_event", **event | {"duration": "half"}).startswith("Invalid duration format.")
    assert call("calendar_create_event", **event | {"event_start": "soon"}).startswith("Invalid event_start format.")
    assert call("calendar_create_event", **event) == "00000003"
    stored = call("calendar_search_events", query="tea")["events"][0]
    assert stored == {"event_id": "00000003", **event, "participant_email": "a@b.c"}
    update = {"event_id": "00000003", "field": "event_id", "new_value": "x"}
    assert call("calendar_update_event", **update).startswith("Invalid field. Available fields are: event_name,")
    assert call("calendar_update_event", **update | {"event_id": "3"}).startswith("Invalid event ID format.")
    assert call("calendar_update_event", **update | {"event_id": "00000009", "field": "duration", "new_value": "1"}) == "Event not found."  # fmt: skip
    assert call("calendar_delete_event", event_id="00000003") == "Event deleted successfully."
    assert call("calendar_create_event", **event) == "00000003"


def test_analytics_bounds_are_texts(call: Any) -> None:
    assert call("analytics_total_visits_count", time_min="2023-11-02") == {"2023-11-02": 2}
    assert call("analytics_total_visits_count", time_min="not a date") == {}
    assert call("analytics_engaged_users_count") == {"2023-11-01": 0, "2023-11-02": 1}
    assert call("analytics_traffic_source_count", traffic_source="Direct") == {"2023-11-01": 0, "2023-11-02": 0}
    assert call("analytics_traffic_source_count", traffic_source="") == {"2023-11-01": 1, "2023-11-02": 2}
    assert call("analytics_get_average_session_duration") == {"2023-11-01": 5.0, "2023-11-02": 15.0}


def test_the_average_over_everything_leaves_numbers_behind(call: Any) -> None:
    def durations() -> list[Any]:
        visits = call("analytics_get_visitor_information_by_id", visitor_id="0007")
        return [visit["session_duration_seconds"] for visit in visits]

    call("analytics_get_average_session_duration", time_min="2023-11-01")
    assert durations() == ["10", "5"]
    call("analytics_get_average_session_duration")
    assert durations() == [10.0, 5.0]


def test_plots_are_named_after_their_arguments(call: Any) -> None:
    plot = {"time_min": "a", "time_max": 5, "value_to_plot": "user_engaged", "plot_type": "bar"}
    assert call("analytics_create_plot", **plot) == "plots/a_5_user_engaged_bar.png"
    assert call("analytics_create_plot", **plot | {"plot_type": "pie"}).startswith("Plot type must be one of 'bar',")
    assert call("analytics_create_plot", **plot | {"value_to_plot": "x"}).startswith(
        "Value to plot must be one of 'tot"
    )


def test_project_search_is_a_plain_list(call: Any) -> None:
    found = call("project_management_search_tasks", assigned_to_email="BEN.orr@north.example", board="END")
    assert [row["task_id"] for row in found] == ["00000002", "00000001"]
    assert call("project_management_search_tasks", list_name="zzz") == []
    assert call("project_management_search_tasks") == "No search parameters provided."
    assert call("project_management_search_tasks", assigned_to_email="ben").startswith("Invalid email format")


def test_project_writes_check_lists_boards_and_people(call: Any) -> None:
    task = {"task_name": "New", "assigned_to_email": "ADA.moss@north.example", "list_name": "Backlog", "due_date": "x", "board": "Design"}  # fmt: skip
    assert call("project_management_create_task", **task | {"assigned_to_email": "cleo.ray@north.example"}).startswith(
        "Assignee email not valid."
    )
    assert call("project_management_create_task", **task | {"list_name": "backlog"}).startswith("List not valid.")
    assert call("project_management_create_task", **task | {"board": "design"}).startswith("Board not valid.")
    assert call("project_management_create_task", **task) == "00000003"
    assert call("project_management_update_task", task_id="00000003", field="x", new_value="y") == "Field not valid."
    update = {"task_id": "00000003", "field": "task_id", "new_value": "00000009"}
    assert call("project_management_update_task", **update) == "Task updated successfully."
    assert call("project_management_get_task_information_by_id", task_id="00000009", field="x") == "Field not found."
    assert call("project_management_delete_task", task_id="00000003") == "Task not found."


def test_customer_dates_carry_a_time_that_texts_compare(call: Any) -> None:
    search = "customer_relationship_manager_search_customers"
    assert call(search, last_contact_date_max="2023-11-09") == "No customers found."
    assert ids(call(search, last_contact_date_max="2023-11-10"), "customers", "customer_id") == ["00000001"]
    assert call(search).startswith("No search parameters provided.")
    dora = call(search, status="LEA")["customers"][0]
    assert dora["customer_phone"] is None and dora["notes"] is None


def test_customers_added_without_email_break_a_later_search_on_it(call: Any) -> None:
    add, search = "customer_relationship_manager_add_customer", "customer_relationship_manager_search_customers"
    assert call(add, customer_name="Fay", assigned_to_email="ADA@x", status="whatever") == "00000002"
    fay = call(search, customer_name="fay")["customers"][0]
    assert (fay["assigned_to_email"], fay["notes"], fay["customer_email"]) == ("ada@x", "", None)
    assert call(search, customer_email="dora") == (
        f"Error executing tool '{search}': Cannot mask with non-boolean array containing NA / NaN values"
    )
    update = "customer_relationship_manager_update_customer"
    assert call(update, customer_id="00000002", field="status", new_value="lost").startswith("Status not valid.")
    assert call(update, customer_id="00000002", field="product_interest", new_value="x").startswith("Product interest")
    assert call(update, customer_id="00000002", field="customer_email", new_value="FAY@z") == "Customer updated successfully."  # fmt: skip
    assert ids(call(search, customer_email="fay@z"), "customers", "customer_id") == ["00000002"]
    assert call("customer_relationship_manager_delete_customer", customer_id="9") == "Customer not found."


@pytest.mark.parametrize("name", ["foo", "verify", "seed_session"])
def test_unknown_and_reserved_names(call: Any, name: str) -> None:
    assert call(name, a=1) == f"Error executing tool '{name}': '{name}'"


def test_unexpected_arguments_are_named_with_the_method(call: Any) -> None:
    assert call("email_delete_email", email_id="1", force=True).endswith(
        "EmailTool.delete_email() got an unexpected keyword argument 'force'"
    )
    assert call("email_delete_email", email_id=None) == "Email ID not provided."


def test_the_body_is_compact_and_arguments_must_be_an_object(environment: WorkplaceEnvironment) -> None:
    office = environment.office.copy()
    done = call_tool(office, "email_delete_email", {"email_id": "00000000"})
    assert (done.text, done.failed) == ('{"output":"Email deleted successfully."}', False)
    detail = call_tool(office, "email_delete_email", [1])
    assert detail.failed and json.loads(detail.text)["detail"][0]["type"] == "model_attributes_type"
    assert json.loads(call_tool(office, "email_delete_email", None).text)["detail"][0]["type"] == "missing"


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("email_delete_email", {"email_id": ["a", "b"]}, "Error deleting email: operands could not be broadcast together with shapes (3,) (2,) "),
        ("analytics_total_visits_count", {"time_min": ["a"]}, "('Lengths must match to compare', (3,), (1,))"),
        ("project_management_get_task_information_by_id", {"task_id": ["a"], "field": "board"}, "('Lengths must match to compare', (3,), (1,))"),
        ("customer_relationship_manager_delete_customer", {"customer_id": ["00000000"]}, "('Lengths must match to compare', (2,), (1,))"),
        ("customer_relationship_manager_search_customers", {"follow_up_by_min": ["a"]}, "('Lengths must match to compare', (2,), (1,))"),
        ("calendar_delete_event", {"event_id": ["00000000"]}, "Invalid event ID format. Expected 8-digit ID."),
    ],
)  # fmt: skip
def test_a_list_is_compared_as_a_column(call: Any, name: str, arguments: dict[str, Any], wanted: str) -> None:
    assert call(name, **arguments).removeprefix(f"Error executing tool '{name}': ") == wanted


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4)  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(sorted(TOOLS)), st.data())
def test_whatever_a_policy_sends_it_gets_json_back_and_others_are_untouched(
    environment: WorkplaceEnvironment, name: str, data: st.DataObject
) -> None:
    arguments = data.draw(st.dictionaries(st.sampled_from(sorted(TOOLS[name].parameters)), JSON))
    before = environment.office.copy()
    assert isinstance(json.loads(call_tool(environment.office.copy(), name, arguments).text), dict)
    assert environment.office == before


def test_missing_tables_say_which(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tables"):
        WorkplaceEnvironment(None)
    with pytest.raises(FormatError, match=r"analytics_data\.csv"):
        read_office(tmp_path)
    (tmp_path / "analytics_data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FormatError, match="a, b"):
        read_office(tmp_path)
