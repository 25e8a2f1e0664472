"""Kinds of tasks that change an event, and how future events are found and described."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from .desk import (
    NOW,
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
from .words import MATTERS, TOPICS


def event_name(draw: OfficeDraw) -> str:
    """A new event's name."""
    return f"{draw.pick(TOPICS)} {draw.pick(MATTERS)}"


def update_call(event: Record, field: str, value: str) -> Call:
    """The call that changes an event."""
    return "calendar_update_event", {"event_id": event["event_id"], "field": field, "new_value": value}


def coming_with(draw: OfficeDraw, desk: Desk) -> tuple[Person, list[Record]] | None:
    """A person with future events, and those events, earliest first; the first and the last start when no other does."""
    person = desk.person(draw, desk.coming_with)
    if person is None:
        return None
    events = desk.coming_with[person.email]
    starts = [event["event_start"] for event in events]
    return None if starts.count(starts[0]) > 1 or starts.count(starts[-1]) > 1 else (person, events)


def coming_one(draw: OfficeDraw, desk: Desk) -> tuple[Record, str, Call] | None:
    """A future event, its description (more than the name if that is not unique), and the call that shows it."""
    if not desk.coming:
        return None
    event, alone = draw.pick(desk.coming)
    name = event["event_name"]
    if alone:
        return event, f"'{name}'", search_events(name)
    person = desk.person(draw, [event["participant_email"]])
    who, day = person.name if person else event["participant_email"], day_text(draw, start_of(event).date())
    return event, f"'{name}' with {who} on {day}", search_events(name, NOW)


def move_time(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_one(draw, desk)
    if found is None:
        return None
    event, name, lookup = found
    if not event["duration"].isdigit():
        return None
    old = start_of(event)
    new = meeting_time(draw, old.date(), int(event["duration"]))
    at = time_text(draw, new)
    phrasings = (
        f"Move {name} to {at} on the same day.",
        f"The meeting {name} should start at {at} instead; the day stays.",
        f"Reschedule the event {name} to {at}, same day.",
        f"Keep the day of {name} but make it begin at {at}.",
    )
    return None if new == old else Draft(phrasings, [update_call(event, "event_start", stamp(new))], [lookup])


def shift(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_one(draw, desk)
    if found is None:
        return None
    event, name, lookup = found
    if not event["duration"].isdigit():
        return None
    by, later = draw.pick((30, 60, 90, 120)), draw.chance(0.6)
    new = start_of(event) + timedelta(minutes=by if later else -by)
    if new.hour < 9 or new + timedelta(minutes=int(event["duration"])) > new.replace(hour=18, minute=0):
        return None
    length = minutes_text(draw, by)
    phrasings = (
        f"Push {name} back by {length}." if later else f"Bring {name} forward by {length}.",
        f"Let {name} start {length} {'later' if later else 'earlier'} than planned.",
        f"Make {name} begin {length} {'later' if later else 'earlier'}.",
    )
    return Draft(phrasings, [update_call(event, "event_start", stamp(new))], [lookup], 1)


def move_day(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_with(draw, desk)
    if found is None:
        return None
    person, events = found
    day = workday(draw)
    old = start_of(events[0])
    if day == old.date():
        return None
    new = datetime.combine(day, old.time())
    when = day_text(draw, day)
    phrasings = (
        f"Move my next meeting with {person.name} to {when}, at the same time of day.",
        f"{person.name} cannot make our next meeting. Shift it to {when}, same time.",
        f"The next event with {person.name} should be on {when} instead. Do not change the time.",
    )
    lookups = [search_events(person.local, NOW)]
    return Draft(phrasings, [update_call(events[0], "event_start", stamp(new))], lookups, 1)


def set_duration(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_one(draw, desk)
    minutes = draw.pick((15, 20, 30, 40, 45, 50, 60, 75))
    if found is None:
        return None
    event, name, lookup = found
    if event["duration"] == str(minutes):
        return None
    phrasings = (
        f"The event {name} should take {minutes} minutes.",
        f"Set the length of {name} to {minutes} minutes.",
        f"Please change the duration of {name}, which is {minutes} minutes now.",
    )
    return Draft(phrasings, [update_call(event, "duration", str(minutes))], [lookup])


def extend_next(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = coming_with(draw, desk)
    if found is None or not found[1][0]["duration"].isdigit():
        return None
    (person, events), by, longer = found, draw.pick((10, 15, 20, 30)), draw.chance(0.6)
    minutes = int(events[0]["duration"]) + (by if longer else -by)
    if minutes < 10:
        return None
    word = "longer" if longer else "shorter"
    phrasings = (
        f"Make my next meeting with {person.name} {by} minutes {word}.",
        f"The next event with {person.name} needs to be {by} minutes {word} than it is.",
        f"{'Extend' if longer else 'Shorten'} the upcoming meeting with {person.name}, the next one, by {by} minutes.",
    )
    lookups = [search_events(person.local, NOW)]
    return Draft(phrasings, [update_call(events[0], "duration", str(minutes))], lookups, 2)


def rename(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, name = coming_one(draw, desk), event_name(draw)
    if found is None:
        return None
    event, old, lookup = found
    if event["event_name"].lower() == name:
        return None
    phrasings = (
        f"Rename the event {old} to '{name}'.",
        f"The event {old} is called '{name}' from now on. Change it in the calendar.",
        f"Give the meeting {old} the new name '{name}'.",
    )
    return Draft(phrasings, [update_call(event, "event_name", name)], [lookup])


def hand_over(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, person = coming_one(draw, desk), desk.person(draw)
    if found is None or person is None or found[0]["participant_email"] == person.email:
        return None
    event, name, lookup = found
    phrasings = (
        f"{person.name} will take part in {name} instead. Change the participant.",
        f"Replace the participant of {name} with {person.name}.",
        f"Swap whoever is invited to {name} for {person.name}.",
    )
    return Draft(phrasings, [update_call(event, "participant_email", person.email)], [lookup, person.lookup])


KINDS: Sequence = (move_time, shift, move_day, set_duration, extend_next, rename, hand_over)
