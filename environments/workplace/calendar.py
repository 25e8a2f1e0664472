"""The tools of the calendar domain. What they return is what the policy sees; exceptions become texts in toolbox.py."""

from typing import Any

from .office import EVENT_COLUMNS, Office
from .paging import page_of
from .tables import contains
from .timestamps import Moment, newest_first, parse_moment

_BAD_ID = "Invalid event ID format. Expected 8-digit ID."
_CHANGEABLE = EVENT_COLUMNS[1:]


def get_event_information_by_id(office: Office, event_id: Any = None, field: Any = None) -> Any:
    """One field of one event."""
    if not event_id:
        return "Event ID not provided."
    if not field:
        return "Field not provided."
    if not _is_event_id(event_id):
        return _BAD_ID
    if field not in EVENT_COLUMNS:
        return f"Invalid field. Available fields are: {', '.join(EVENT_COLUMNS)}"
    found = office.events.find("event_id", event_id)
    return {field: found[0][field]} if found else "Event not found."


def search_events(
    office: Office, query: Any = "", time_min: Any = None, time_max: Any = None, page: Any = 1, page_size: Any = 5
) -> Any:
    """Events whose name or participant matches the query as a regular expression, latest start first; bounds inclusive."""
    earliest = latest = None
    if time_min:
        try:
            earliest = parse_moment(time_min)
        except ValueError:
            return "Invalid time_min format. Expected YYYY-MM-DD HH:MM:SS."
    if time_max:
        try:
            latest = parse_moment(time_max)
        except ValueError:
            return "Invalid time_max format. Expected YYYY-MM-DD HH:MM:SS."
    by_name = contains(office.events.cells("event_name"), query, null=False)
    by_participant = contains(office.events.cells("participant_email"), query, null=False)
    hits = [name or participant for name, participant in zip(by_name, by_participant, strict=True)]
    events = office.events.where(hits).records()
    if earliest:
        events = [event for event in events if _start(event) >= earliest]
    if latest:
        events = [event for event in events if _start(event) <= latest]
    if not events:
        return "No events found."
    return page_of("events", newest_first(events, _start), page, page_size)


def create_event(
    office: Office,
    event_name: Any = None,
    participant_email: Any = None,
    event_start: Any = None,
    duration: Any = None,
) -> Any:
    """Adds an event; start and duration are stored as typed. Returns its id."""
    if not event_name:
        return "Event name not provided."
    if not participant_email:
        return "Participant email not provided."
    if not event_start:
        return "Event start not provided."
    if not duration:
        return "Event duration not provided."
    if problem := _start_problem(event_start) or _duration_problem(duration):
        return problem
    record = {
        "participant_email": participant_email.lower(),
        "event_id": str(office.events.next_id("event_id")).zfill(8),
        "event_name": event_name,
        "event_start": event_start,
        "duration": duration,
    }
    office.events = office.events.with_row(record, relabel=False)
    return record["event_id"]


def delete_event(office: Office, event_id: Any = None) -> Any:
    """Removes an event."""
    if not event_id:
        return "Event ID not provided."
    if not _is_event_id(event_id):
        return _BAD_ID
    if not office.events.has("event_id", event_id):
        return "Event not found."
    office.events = office.events.without("event_id", event_id)
    return "Event deleted successfully."


def update_event(office: Office, event_id: Any = None, field: Any = None, new_value: Any = None) -> Any:
    """Changes one field of an event."""
    if not event_id or not field or not new_value:
        return "Event ID, field, or new value not provided."
    if not _is_event_id(event_id):
        return _BAD_ID
    if field not in _CHANGEABLE:
        return f"Invalid field. Available fields are: {', '.join(_CHANGEABLE)}"
    if field == "event_start" and (problem := _start_problem(new_value)):
        return problem
    if field == "duration" and (problem := _duration_problem(new_value)):
        return problem
    if not office.events.has("event_id", event_id):
        return "Event not found."
    if field == "participant_email":
        new_value = new_value.lower()
    office.events = office.events.with_cell("event_id", event_id, field, new_value)
    return "Event updated successfully."


def _start(event: dict[str, Any]) -> Moment:
    return parse_moment(event["event_start"])


def _is_event_id(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 8 and value.isdigit()


def _start_problem(start: Any) -> str | None:
    try:
        parse_moment(start)
    except ValueError:
        return "Invalid event_start format. Expected YYYY-MM-DD HH:MM:SS."
    return None


def _duration_problem(duration: Any) -> str | None:
    try:
        positive = int(duration) > 0
    except ValueError:
        return "Invalid duration format. Expected a number of minutes."
    return None if positive else "Duration must be a positive number of minutes."
