"""The material of tasks: the tables by person, name and day, and the words for people, days and times."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

from ..office import Office
from .draw import OfficeDraw

NOW = datetime(2023, 11, 30, 23, 59)
TODAY = NOW.date()
ME = "Sam"

Record = dict[str, Any]
Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Draft:
    """A proposed task of a kind.

    Attributes:
        phrasings: Wordings of one meaning; the last is for validation and test only.
        calls: The correct calls; empty if the correct action is none.
        lookups: Reading calls that show everything that `calls` needs and the request lacks.
        conditions: Decisions on what was read (a comparison, a choice of the first, the busiest, …).
    """

    phrasings: Sequence[str]
    calls: Sequence[Call]
    lookups: Sequence[Call] = ()
    conditions: int = 0


@dataclass(frozen=True)
class Person:
    """A person of the directory."""

    email: str
    name: str

    @property
    def local(self) -> str:
        """The address up to the @, which searches find."""
        return self.email.partition("@")[0]

    @property
    def lookup(self) -> Call:
        """The call that shows the address."""
        return "company_directory_find_email_address", {"name": self.name.split()[0]}


class Desk:
    """The office, indexed once, in table order by default. Rows without the needed cells are left out."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.people = [Person(email, _name(email)) for email in office.directory.cells("email_address") if "." in email.partition("@")[0]]  # fmt: skip
        self.emails = sorted(_full(office.emails.records(), "sent_datetime", "subject", "sender/recipient"), key=lambda mail: mail["sent_datetime"])  # fmt: skip
        self.events = sorted(_full(office.events.records(), *office.events.columns), key=lambda event: event["event_start"])  # fmt: skip
        self.tasks = _full(office.tasks.records(), *office.tasks.columns)
        self.customers = _full(office.customers.records(), "customer_name", "assigned_to_email", "status", "product_interest", "last_contact_date", "follow_up_by")  # fmt: skip

    @cached_property
    def mails_from(self) -> dict[str, list[Record]]:
        """Sender to e-mails, oldest first."""
        return _by(self.emails, "sender/recipient")

    @cached_property
    def events_with(self) -> dict[str, list[Record]]:
        """Participant to events, earliest first."""
        return _by(self.events, "participant_email")

    @cached_property
    def coming_with(self) -> dict[str, list[Record]]:
        """Participant to events to come, earliest first."""
        return _by([event for event in self.events if start_of(event) > NOW], "participant_email")

    @cached_property
    def events_on(self) -> dict[str, list[Record]]:
        """Day (ISO) to events, earliest first."""
        groups = defaultdict(list)
        for event in self.events:
            groups[event["event_start"][:10]].append(event)
        return dict(groups)

    @cached_property
    def tasks_of(self) -> dict[str, list[Record]]:
        """Assignee to tasks."""
        return _by(self.tasks, "assigned_to_email")

    @cached_property
    def customers_of(self) -> dict[str, list[Record]]:
        """Colleague to customers."""
        return _by(self.customers, "assigned_to_email")

    @cached_property
    def visits_on(self) -> dict[str, list[Record]]:
        """Day (ISO) to visits, days in order."""
        return dict(sorted(_by(self.office.visits.records(), "date_of_visit").items()))

    @cached_property
    def coming(self) -> list[tuple[Record, bool]]:
        """Future events that name, participant and day identify among future events, and whether the name alone identifies one among all events."""
        coming = [event for event in self.events if start_of(event) > NOW]
        names = Counter(event["event_name"].lower() for event in self.events)
        exact = Counter(_whereabouts(event) for event in coming)
        return [
            (event, names[event["event_name"].lower()] == 1)
            for event in coming
            if exact[_whereabouts(event)] == 1 and _is_plain(event["event_name"])
        ]

    @cached_property
    def own_tasks(self) -> list[tuple[Record, bool]]:
        """Tasks that name and due date identify, and whether the name alone does."""
        names = Counter(task["task_name"].lower() for task in self.tasks)
        exact = Counter((task["task_name"].lower(), task["due_date"]) for task in self.tasks)
        return [
            (task, names[task["task_name"].lower()] == 1)
            for task in self.tasks
            if exact[task["task_name"].lower(), task["due_date"]] == 1 and _is_plain(task["task_name"])
        ]

    @cached_property
    def own_customers(self) -> list[Record]:
        """Customers of unique name."""
        return _alone(self.customers, "customer_name")

    def person(self, draw: OfficeDraw, among: Iterable[str] | None = None) -> Person | None:
        """A person of the directory, of those addresses if given; None without one."""
        allowed = None if among is None else frozenset(among)
        people = [person for person in self.people if allowed is None or person.email in allowed]
        return draw.pick(people) if people else None

    def others(self, draw: OfficeDraw, count: int, *without: Person | None) -> list[Person]:
        """Different colleagues, none of `without`; fewer if there are not enough."""
        people = [person for person in self.people if person not in without]
        return draw.sample(people, min(count, len(people)))


def _name(email: str) -> str:
    return " ".join(part.capitalize() for part in email.partition("@")[0].split("."))


def _full(records: list[Record], *columns: str) -> list[Record]:
    return [record for record in records if all(isinstance(record[column], str) for column in columns)]


def _by(records: Iterable[Record], column: str) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record[column]].append(record)
    return dict(groups)


def _alone(records: list[Record], column: str) -> list[Record]:
    counts = Counter(record[column].lower() for record in records)
    return [record for record in records if counts[record[column].lower()] == 1 and _is_plain(record[column])]


def _is_plain(name: str) -> bool:
    # A search takes names as patterns, and requests put them between quotes.
    return name.replace(" ", "").replace("-", "").isalnum()


def _whereabouts(event: Record) -> tuple[str, str, str]:
    return event["event_name"].lower(), event["participant_email"], event["event_start"][:10]


def start_of(event: Record) -> datetime:
    """When an event begins."""
    return datetime.fromisoformat(event["event_start"])


def stamp(moment: datetime) -> str:
    """A time as the tools take it."""
    return moment.isoformat(" ", "seconds")


def day_text(draw: OfficeDraw, day: date) -> str:
    """A day in one of the ways people write one."""
    if day == TODAY + timedelta(days=1) and draw.chance(0.4):
        return "tomorrow"
    if day == TODAY - timedelta(days=1) and draw.chance(0.4):
        return "yesterday"
    if day == TODAY and draw.chance(0.4):
        return "today"
    if day.year != TODAY.year:
        return day.isoformat()
    month, short = _MONTHS[day.month - 1], _MONTHS[day.month - 1][:3]
    return draw.pick(
        (
            f"{month} {day.day}",
            f"{short} {day.day}",
            day.isoformat(),
            f"{_DAYS[day.weekday()]}, {month} {day.day}",
            f"{day.day} {month}",
        )
    )


def time_text(draw: OfficeDraw, moment: datetime) -> str:
    """A time of day in one of the ways people write one."""
    hour, half = (moment.hour - 1) % 12 + 1, "am" if moment.hour < 12 else "pm"
    minutes = f":{moment.minute:02}" if moment.minute else ""
    return draw.pick((f"{hour}{minutes}{half}", f"{hour}{minutes} {half}", f"{moment.hour:02}:{moment.minute:02}"))


def minutes_text(draw: OfficeDraw, minutes: int) -> str:
    """A length of time."""
    hours = {60: "one hour", 90: "an hour and a half", 120: "two hours"}
    return hours[minutes] if minutes in hours and draw.chance(0.5) else f"{minutes} minutes"


def workday(draw: OfficeDraw, least: int = 1, most: int = 20) -> date:
    """A weekday between `least` and `most` days from now."""
    while True:
        day = TODAY + timedelta(days=draw.between(least, most))
        if day.weekday() < 5:
            return day


def meeting_time(draw: OfficeDraw, day: date, minutes: int = 0) -> datetime:
    """A full or half hour of the day at which a meeting of that length fits between 9 and 18."""
    last = (18 * 60 - minutes) // 30
    return datetime(day.year, day.month, day.day) + timedelta(minutes=30 * draw.between(18, max(18, min(last, 34))))


def search_events(query: str | None = None, since: datetime | None = None, until: datetime | None = None) -> Call:
    """The call that shows events."""
    arguments: dict[str, Any] = {} if query is None else {"query": query}
    arguments |= {} if since is None else {"time_min": stamp(since)}
    arguments |= {} if until is None else {"time_max": stamp(until)}
    return "calendar_search_events", arguments | {"page_size": 100}


def search_mails(query: str, since: date | None = None, until: date | None = None, page: int = 1) -> Call:
    """The call that shows e-mails, newest first; a page beyond the last is the last."""
    arguments: dict[str, Any] = {"query": query}
    arguments |= {} if since is None else {"date_min": since.isoformat()}
    arguments |= {} if until is None else {"date_max": until.isoformat()}
    return "email_search_emails", arguments | ({} if page == 1 else {"page": page})


_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
