"""Tables of an invented office, of any size, written row by row."""

import csv
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

from ....base.errors import ConfigError
from ..office import CUSTOMER_COLUMNS, EMAIL_COLUMNS, EVENT_COLUMNS, TASK_COLUMNS, VISIT_COLUMNS
from . import words
from .draw import OfficeDraw

DOMAIN = "lumenhall.com"
# Rows at size 1, as many as the Workplace Assistant's tables have.
_EMAILS, _EVENTS, _TASKS, _CUSTOMERS, _VISITS, _PEOPLE = 500, 300, 300, 200, 1000, 20
_FIRST_VISIT = date(2023, 9, 1)
_VISIT_DAYS = 91

Cells = tuple[str, ...]


def generate_tables(folder: str | Path, seed: int = 0, size: float = 1.0) -> dict[str, int]:
    """Writes the six CSV files into a folder, which is made, and returns the rows of each file.

    The same bytes for the same seed and size, whatever the machine. Rows are in order of time, ids in random order, as in the Workplace
    Assistant's tables. Participants, senders, assignees and owners are addresses of the directory; every person has a task.

    Args:
        size: 1 is 500 e-mails, 300 events, 300 tasks, 200 customers, 1,000 visits and 20 people; the directory grows with the square
            root, up to every pair of names.

    Raises ConfigError for a size that is not positive.
    """
    if not size > 0:
        raise ConfigError(
            f"Tables of size {size:g} have no rows.", "Give a size above 0; 1 is that of the Workplace Assistant."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def draw(name: str) -> OfficeDraw:
        return OfficeDraw(f"workplace tables/{seed}/{name}")

    def rows(least: int, at_one: int) -> int:
        return max(least, round(at_one * size))

    people = list(_people(draw("people"), max(4, round(_PEOPLE * size**0.5))))
    files = {
        "email_addresses.csv": (None, ((person,) for person in people)),
        "emails.csv": (EMAIL_COLUMNS, _emails(draw("emails"), rows(5, _EMAILS), people)),
        "calendar_events.csv": (EVENT_COLUMNS, _events(draw("events"), rows(5, _EVENTS), people)),
        "project_tasks.csv": (TASK_COLUMNS, _tasks(draw("tasks"), rows(len(people), _TASKS), people)),
        "customer_relationship_manager_data.csv": (CUSTOMER_COLUMNS, _customers(draw("customers"), rows(5, _CUSTOMERS), people)),
        "analytics_data.csv": (VISIT_COLUMNS, _visits(draw("visits"), rows(5, _VISITS))),
    }  # fmt: skip
    return {name: _write(folder / name, header, lines) for name, (header, lines) in files.items()}


def _write(path: Path, header: Cells | None, lines: Iterable[Cells]) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if header:
            writer.writerow(header)
        for line in lines:
            writer.writerow(line)
            count += 1
    return count


def _people(draw: OfficeDraw, count: int) -> Iterator[str]:
    """Different names; different first names too, as long as there are enough."""
    firsts, lasts = words.FIRST_NAMES, words.LAST_NAMES
    start, step = draw.below(len(firsts)), draw.below(len(lasts))
    for number in range(min(count, len(firsts) * len(lasts))):
        lap, place = divmod(number, len(firsts))
        first, last = firsts[(start + place) % len(firsts)], lasts[(step + 7 * place + lap) % len(lasts)]
        yield f"{first}.{last}@{DOMAIN}"


def _ids(draw: OfficeDraw, count: int) -> Iterator[str]:
    """The numbers from 0 to count - 1, each once, mixed by an affine step that needs no list."""
    step = next(step for step in iter(lambda: 2 * draw.below(count + 1) + 1, None) if _coprime(step, count))
    start = draw.below(count)
    return (f"{(start + step * number) % count:08}" for number in range(count))


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def _moments(count: int, first: date, days: int) -> Iterator[datetime]:
    """Midnights of working days, in order, spread over the days."""
    for number in range(count):
        day = first + timedelta(days=number * days // count)
        # What would fall on a weekend falls on the Friday before, which keeps the order.
        day -= timedelta(days=max(0, day.weekday() - 4))
        yield datetime(day.year, day.month, day.day)


def _emails(draw: OfficeDraw, count: int, people: list[str]) -> Iterator[Cells]:
    seconds = 61 * 24 * 3600 - 3600
    for number, email_id in enumerate(_ids(draw, count)):
        # One in each slot of time: all times differ up to a hundred thousand times the usual size.
        slot = seconds / count
        sent = datetime(2023, 10, 1) + timedelta(seconds=int(slot * number + draw.below(max(1, int(slot)))))
        sender, topic = draw.pick(people), f"{draw.pick(words.TOPICS)} {draw.pick(words.MATTERS)}"
        name = sender.partition(".")[0].capitalize()
        subject = draw.pick(
            ("Update on the {}", "Question about the {}", "{}", "Notes from the {}", "{}: next steps")
        ).format(topic)
        body = f"Hi Sam,\\n\\n{draw.pick(words.OPENINGS)} {topic}. {draw.pick(words.CLOSINGS)}\\n\\nRegards,\\n{name}"
        yield email_id, "inbox", sender, subject[0].upper() + subject[1:], sent.isoformat(" "), body  # fmt: skip


def _events(draw: OfficeDraw, count: int, people: list[str]) -> Iterator[Cells]:
    # Mostly past, some weeks ahead. Each day's events are in order of time.
    ids, moments = _ids(draw, count), _moments(count, date(2023, 8, 1), 143)
    day: list[datetime] = []
    for moment in _with_end(moments):
        if day and (moment is None or moment.date() != day[0].date()):
            for start in sorted(start + timedelta(minutes=30 * draw.between(18, 33)) for start in day):
                name = f"{draw.pick(words.TOPICS)} {draw.pick(words.MATTERS)}"
                yield next(ids), name, draw.pick(people), start.isoformat(" "), draw.pick(("30", "30", "60", "60", "90", "120"))  # fmt: skip
            day = []
        if moment is not None:
            day.append(moment)


def _with_end(moments: Iterable[datetime]) -> Iterator[datetime | None]:
    yield from moments
    yield None


def _tasks(draw: OfficeDraw, count: int, people: list[str]) -> Iterator[Cells]:
    for number, task_id in enumerate(_ids(draw, count)):
        owner = people[number] if number < len(people) else draw.pick(people)
        name = f"{draw.pick(words.VERBS)} {draw.pick(words.PARTS)}"
        name += f" {draw.pick(words.PLACES)}" if draw.chance(0.6) else ""
        due = date(2023, 11, 20) + timedelta(days=draw.below(32))
        due -= timedelta(days=max(0, due.weekday() - 4))
        yield task_id, name, owner, draw.pick(words.LISTS), due.isoformat(), draw.pick(words.BOARDS)


def _customers(draw: OfficeDraw, count: int, people: list[str]) -> Iterator[Cells]:
    firsts, lasts = words.CLIENT_FIRST, words.CLIENT_LAST
    for number, customer_id in enumerate(_ids(draw, count)):
        lap, place = divmod(number * 5 % (len(firsts) * len(lasts)), len(firsts))
        first, last, company = firsts[place], lasts[(lap + place) % len(lasts)], draw.pick(words.COMPANIES)
        contacted = date(2023, 11, 30) - timedelta(days=number * 90 // count)
        follow_up = date(2023, 12, 1) + timedelta(days=draw.below(45))
        phone = f"555-{draw.between(100, 999)}-{draw.between(1000, 9999)}" if draw.chance(0.5) else ""
        notes = f"{contacted}: {draw.pick(words.CONTACTS)}." if draw.chance(0.75) else ""
        yield (
            *(customer_id, draw.pick(people), f"{first} {last}", f"{first}.{last}@{company}".lower(), phone),
            *(
                f"{contacted} 23:59:00",
                draw.pick(words.PRODUCTS),
                draw.pick(words.STATUSES),
                f"{follow_up} 23:59:00",
                notes,
            ),
        )


def _visits(draw: OfficeDraw, count: int) -> Iterator[Cells]:
    # Half of the visits are direct, as on most small sites.
    sources = ("direct", "direct", "direct", "direct", "social media", "social media", "search engine", "referral")
    width = max(4, len(str(10 * count)) - 1)
    for number in range(count):
        # Visits per day vary, so that some days are busy.
        day = _FIRST_VISIT + timedelta(days=(number * _VISIT_DAYS // count + draw.below(3)) % _VISIT_DAYS)
        visitor = f"{draw.below(10 * count) % 10**width:0{width}}"
        seconds, views = draw.between(1, 60), draw.between(1, 15)
        yield day.isoformat(), visitor, str(views), str(seconds), draw.pick(sources), str(draw.chance(0.4))
