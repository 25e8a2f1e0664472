"""Reading points in time as pandas does: ISO first, then month/day/year, quarters and free text."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")

_ISO = re.compile(
    r"(\d{4})-(\d{1,2})(?:-(\d{1,2})(?:[T ](\d{1,2})(?::(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,9}))?)?)?)?)?", re.ASCII
)
_WHOLE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_MONTH_DAY_YEAR = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})", re.ASCII)
_QUARTER = re.compile(r"(\d{4})-?q([1-4])", re.ASCII | re.IGNORECASE)
_QUARTER_FIRST = re.compile(r"([1-4])q-?(\d{4})", re.ASCII | re.IGNORECASE)
_STARTS_WITH_TIME = re.compile(r"\d{1,2}:\d\d", re.ASCII)
_WEEKDAY = re.compile(
    r"(?<![a-z])(mon|tue|wed|thu|fri|sat|sun)(day|sday|nesday|rsday|urday)?(?![a-z])", re.IGNORECASE
)  # fmt: skip
_WEEKDAY_ONLY = re.compile(r"\W*(mon|tue|wed|thu|fri|sat|sun)[a-z]*\W*", re.IGNORECASE)
_NOT_A_TIME = {"", "nat", "nan"}
_LONE_LETTERS = {"a", "m", "p", "t"}
# Numbers are nanoseconds in 64 bits.
_LEAST, _MOST = -(2**63) + 1, 2**63 - 1


@dataclass(frozen=True)
class Moment:
    """A point in time.

    Attributes:
        time: None for "not a time", which compares false with everything. Naive and aware times do not compare.
    """

    time: datetime | None

    def date(self) -> date:
        """The calendar day. Raises TypeError for "not a time"."""
        if self.time is None:
            raise TypeError("Cannot compare NaT with datetime.date object")
        return self.time.date()

    def __lt__(self, other: "Moment") -> bool:
        return self._comparable(other) and self.time < other.time  # type: ignore[operator]

    def __le__(self, other: "Moment") -> bool:
        return self._comparable(other) and self.time <= other.time  # type: ignore[operator]

    def __ge__(self, other: "Moment") -> bool:
        return other <= self

    @property
    def is_plain(self) -> bool:
        """Whether it is a time without a zone: those compare by `time` alone."""
        return self.time is not None and self.time.tzinfo is None

    def _comparable(self, other: "Moment") -> bool:
        if self.time is None or other.time is None:
            return False
        if (self.time.tzinfo is None) != (other.time.tzinfo is None):
            raise TypeError("Cannot compare tz-naive and tz-aware timestamps")
        return True


def parse_moment(value: Any) -> Moment:
    """Reads text, or a number of nanoseconds since 1970.

    Raises ValueError for text that is not a time and TypeError for other values; tools show these messages to the policy.
    """
    if isinstance(value, str):
        return _parse_relative(value) or _parse_text(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value:
            return Moment(None)
        if not _LEAST <= value <= _MOST:
            raise ValueError(f"Out of bounds nanosecond timestamp {value}")
        return Moment(datetime(1970, 1, 1) + timedelta(microseconds=value // 1000))
    raise TypeError(f"Cannot convert input [{value}] of type {type(value)} to Timestamp")


def _parse_relative(text: str) -> Moment | None:
    return Moment(datetime.now()) if text in ("now", "today") else None


@lru_cache(maxsize=4096)
def _parse_text(text: str) -> Moment:
    if _WHOLE.fullmatch(text):
        try:
            return Moment(datetime.fromisoformat(text))
        except ValueError:
            pass  # the slow path raises the error
    if text.lower() in _NOT_A_TIME:
        return Moment(None)
    if iso := _ISO.fullmatch(text):
        year, month, day, hour, minute, second, fraction = iso.groups()
        microsecond = int((fraction or "0")[:6].ljust(6, "0"))
        parts = [int(part or least) for part, least in ((month, 1), (day, 1), (hour, 0), (minute, 0), (second, 0))]
        return Moment(_checked(text, int(year), *parts, microsecond))
    if delimited := _MONTH_DAY_YEAR.fullmatch(text):
        first, second, year = map(int, delimited.groups())
        month, day = (second, first) if first > 12 else (first, second)
        return Moment(_checked(text, year, month, day))
    if quarter := _QUARTER.fullmatch(text):
        return Moment(datetime(int(quarter[1]), 3 * int(quarter[2]) - 2, 1))
    if quarter := _QUARTER_FIRST.fullmatch(text):
        return Moment(datetime(int(quarter[2]), 3 * int(quarter[1]) - 2, 1))
    if text.startswith("-") and (iso := _ISO.fullmatch(text, 1)):
        raise ValueError(f"year -{iso[1]} is out of range")
    return Moment(_parse_free_text(text))


def _checked(text: str, *parts: int) -> datetime:
    if parts[0] == 0:
        raise ValueError("year 0 is out of range")
    try:
        return datetime(*parts)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{error}: {text}") from None


def _parse_free_text(text: str) -> datetime:
    from dateutil import parser

    if _small_number(text) or text.lower() in _LONE_LETTERS:
        raise ValueError(f'Given date string "{text}" not likely a datetime')
    if _WEEKDAY_ONLY.fullmatch(text):
        raise ValueError(f"Unable to parse datetime string: {text}")
    # A time alone is a time of today; what else is missing is filled from the first of January of year 1.
    today = datetime.now() if _STARTS_WITH_TIME.match(text) else datetime(1, 1, 1)
    day = today.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = parser.parse(text, default=day)
            if _WEEKDAY.search(text) and found != parser.parse(text, default=day + timedelta(days=7)):
                raise ValueError("Parsing datetimes with weekday but no day information is not supported")
            return found
    except (ValueError, OverflowError) as error:
        message = str(error)
        message = message.replace("Unknown string format:", "Unknown datetime string format, unable to parse:")
        message = message.replace("String does not contain a date:", "Unable to parse datetime string:")
        raise ValueError(message) from None


def _small_number(text: str) -> bool:
    try:
        return not text.startswith("0") and float(text) < 1000
    except ValueError:
        return False


def newest_first(records: list[T], moment: Callable[[T], Moment]) -> list[T]:
    """Sorted by `moment`, latest first, equal ones in the order they had. Raises what comparing moments raises."""
    moments = [moment(record) for record in records]
    keys: list[Any] = [one.time for one in moments] if all(one.is_plain for one in moments) else moments
    places = sorted(range(len(records)), key=keys.__getitem__, reverse=True)
    return [records[place] for place in places]
