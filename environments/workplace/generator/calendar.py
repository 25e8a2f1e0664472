"""Kinds of tasks about the calendar: events made and cancelled."""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

from .calendar_changes import KINDS as CHANGES
from .calendar_changes import coming_one, coming_with, event_name
from .desk import (
    NOW,
    TODAY,
    Call,
    Desk,
    Draft,
    Person,
    Record,
    day_text,
    meeting_time,
    minutes_text,
    search_events,
    stamp,
    start_of,
    time_text,
    workday,
)
from .draw import OfficeDraw

_LENGTHS = (30, 45, 60, 90)


def create_call(name: str, person: Person, start: datetime, minutes: int) -> Call:
    """The call that creates an event."""
    return "calendar_create_event", {
        "event_name": name,
        "participant_email": person.email,
        "event_start": stamp(start),
        "duration": str(minutes),
    }


def delete_call(event: Record) -> Call:
    """The call that deletes an event."""
    return "calendar_delete_event", {"event_id": event["event_id"]}


def _day_bounds(day: date) -> tuple[datetime, datetime]:
    return datetime.combine(day, time(0)), datetime.combine(day, time(23, 59))


def _busy_day(draw: OfficeDraw, desk: Desk, most: int) -> tuple[date, list[Record]] | None:
    days = [day for day, events in desk.events_on.items() if day > TODAY.isoformat() and len(events) <= most]
    if not days:
        return None
    day = draw.pick(days)
    return date.fromisoformat(day), desk.events_on[day]


def create(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person = desk.person(draw)
    if person is None:
        return None
    name, day, minutes = event_name(draw), workday(draw), draw.pick(_LENGTHS)
    start = meeting_time(draw, day, minutes)
    when, at, length = day_text(draw, day), time_text(draw, start), minutes_text(draw, minutes)
    phrasings = (
        f"Schedule '{name}' with {person.name} on {when} at {at} for {length}.",
        f"Put a meeting called '{name}' with {person.name} in my calendar: {when}, {at}, {length}.",
        f"I need {length} with {person.name} at {at} on {when}. Call it '{name}'.",
        f"Can you book {person.name} for '{name}'? It starts at {at} on {when} and takes {length}.",
    )
    return Draft(phrasings, [create_call(name, person, start, minutes)], [person.lookup])


def create_in_days(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person = desk.person(draw)
    if person is None:
        return None
    days, name, minutes = draw.between(4, 14), event_name(draw), draw.pick(_LENGTHS)
    day = TODAY + timedelta(days=days)
    if day.weekday() > 4:
        return None
    start = meeting_time(draw, day, minutes)
    at, length = time_text(draw, start), minutes_text(draw, minutes)
    phrasings = (
        f"Set up '{name}' with {person.name} {days} days from now at {at}; {length} will do.",
        f"In {days} days at {at} I want to meet {person.name} for {length}. The event is '{name}'.",
        f"Create the event '{name}' ({length}) with {person.name}, {days} days from today, starting {at}.",
    )
    return Draft(phrasings, [create_call(name, person, start, minutes)], [person.lookup], 1)


def delete_named(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_one(draw, desk)
    if found is None:
        return None
    event, name, lookup = found
    phrasings = (
        f"Cancel the event {name}.",
        f"Please remove {name} from my calendar.",
        f"The event {name} is not going to happen. Delete it.",
        f"Take {name} off the calendar, would you?",
    )
    return Draft(phrasings, [delete_call(event)], [lookup])


def delete_next_with(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_with(draw, desk)
    if found is None:
        return None
    person, events = found
    phrasings = (
        f"Cancel my next meeting with {person.name}.",
        f"I cannot make the next meeting with {person.name}; please delete it.",
        f"Remove the next event I have with {person.name} from the calendar.",
        f"{person.name} asked to drop our upcoming meeting, the first one from now. Cancel it.",
    )
    return Draft(phrasings, [delete_call(events[0])], [search_events(person.local, NOW)], 1)


def delete_last_with(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_with(draw, desk)
    if found is None or len(found[1]) < 2:
        return None
    person, events = found
    phrasings = (
        f"Delete the last meeting with {person.name} that is in my calendar.",
        f"Of all events with {person.name}, cancel the one furthest in the future.",
        f"The latest event planned with {person.name} should go. Remove it.",
    )
    return Draft(phrasings, [delete_call(events[-1])], [search_events(person.local, NOW)], 1)


def clear_day(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = _busy_day(draw, desk, 4)
    if found is None:
        return None
    day, events = found
    when = day_text(draw, day)
    phrasings = (
        f"Clear my calendar for {when}.",
        f"I am taking {when} off: cancel every event of that day.",
        f"Delete all events on {when}.",
        f"Nothing should be left in the calendar on {when}.",
    )
    return Draft(phrasings, [delete_call(event) for event in events], [search_events(None, *_day_bounds(day))])


def delete_edge_of_day(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = _busy_day(draw, desk, 8)
    if found is None or len(found[1]) < 2:
        return None
    day, events = found
    first = draw.chance(0.5)
    event = events[0] if first else events[-1]
    if sum(other["event_start"] == event["event_start"] for other in events) > 1:
        return None
    which, when = "first" if first else "last", day_text(draw, day)
    phrasings = (
        f"Cancel my {which} meeting on {when}.",
        f"Delete the {which} event of {when}.",
        f"On {when} I want to skip the {which} meeting of the day. Please cancel it.",
    )
    return Draft(phrasings, [delete_call(event)], [search_events(None, *_day_bounds(day))], 1)


def delete_long(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = _busy_day(draw, desk, 8)
    if found is None:
        return None
    day, events = found
    limit, when = draw.pick((30, 45, 60)), day_text(draw, day)
    long = [event for event in events if event["duration"].isdigit() and int(event["duration"]) > limit]
    if len(long) > 4:
        return None
    phrasings = (
        f"Cancel every meeting on {when} that is longer than {limit} minutes.",
        f"Meetings of more than {limit} minutes on {when} have to go: delete them, and leave the shorter ones.",
        f"Look at {when}: anything over {limit} minutes should be cancelled.",
    )
    calls = [delete_call(event) for event in long]
    return Draft(phrasings, calls, [search_events(None, *_day_bounds(day))], 1)


def follow_up(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_one(draw, desk)
    weeks, name = draw.pick((1, 2)), event_name(draw)
    person = found and desk.person(draw, [found[0]["participant_email"]])
    if found is None or not isinstance(person, Person) or not found[0]["duration"].isdigit():
        return None
    event, old, lookup = found
    new, later = start_of(event) + timedelta(weeks=weeks), ("a week", "two weeks")[weeks - 1]
    phrasings = (
        f"Schedule '{name}' {later} after {old}: same participant, same time of day, same length.",
        f"I want a follow-up to {old} {later} later, with the same person, time and duration. Name it '{name}'.",
        f"Copy the event {old} to {later} later under the name '{name}'.",
    )
    return Draft(phrasings, [create_call(name, person, new, int(event["duration"]))], [lookup], 1)


def create_unless_planned(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person = desk.person(draw)
    if person is None:
        return None
    days, day, minutes, name = draw.pick((5, 7, 10, 14)), workday(draw), draw.pick(_LENGTHS), event_name(draw)
    until = datetime.combine(TODAY + timedelta(days=days), time(23, 59))
    planned = any(NOW < start_of(event) <= until for event in desk.events_with.get(person.email, ()))
    start = meeting_time(draw, day, minutes)
    when, at = day_text(draw, day), time_text(draw, start)
    phrasings = (
        f"If I have no meeting with {person.name} in the next {days} days, schedule '{name}' with them on {when} at {at} for {minutes} minutes.",
        f"Unless {person.name} and I already meet within the next {days} days, book '{name}', {minutes} minutes, {when} at {at}.",
        f"Check the next {days} days for meetings with {person.name}. None? Then create '{name}' on {when} at {at} ({minutes} minutes). Otherwise leave everything as it is.",
    )
    calls = [] if planned else [create_call(name, person, start, minutes)]
    return Draft(phrasings, calls, [person.lookup, search_events(person.local, NOW, until)], 1)


def create_if_day_free(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person = desk.person(draw)
    if person is None:
        return None
    day, minutes, name = workday(draw, 1, 45), draw.pick(_LENGTHS), event_name(draw)
    start = meeting_time(draw, day, minutes)
    when, at = day_text(draw, day), time_text(draw, start)
    phrasings = (
        f"If nothing is planned on {when}, put '{name}' with {person.name} there at {at} for {minutes} minutes.",
        f"Is {when} free of events? If so, book {person.name} for '{name}' at {at}, {minutes} minutes; if not, do nothing.",
        f"Only when my calendar is empty on {when}: create '{name}' with {person.name}, {at}, {minutes} minutes.",
    )
    calls = [] if day.isoformat() in desk.events_on else [create_call(name, person, start, minutes)]
    return Draft(phrasings, calls, [search_events(None, *_day_bounds(day)), person.lookup], 1)


KINDS: Sequence = (
    *(create, create_in_days, delete_named, delete_next_with, delete_last_with, clear_day, delete_edge_of_day),
    *(delete_long, follow_up, create_unless_planned, create_if_day_free, *CHANGES),
)
HELD_OUT = (delete_last_with,)
