"""Points in time are read as pandas reads them."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.environments.workplace.timestamps import Moment, parse_moment

NOON = datetime(2023, 12, 1, 12)
MIDNIGHT = datetime(2023, 12, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-12-01 12:00:00", NOON),
        ("2023-12-01T12:00", NOON),
        ("2023-12-01 12", NOON),
        ("2023-12-01 12:00 PM", NOON),
        ("Dec 1 2023 12pm", NOON),
        ("2023-12-1", MIDNIGHT),
        ("2023-12", MIDNIGHT),
        ("20231201", MIDNIGHT),
        ("12/01/2023", MIDNIGHT),
        ("Friday, 2023-12-01", MIDNIGHT),
        ("13/01/2023", datetime(2023, 1, 13)),
        ("2023Q4", datetime(2023, 10, 1)),
        ("4Q2023", datetime(2023, 10, 1)),
        ("1:2:3", datetime(1, 1, 1, 1, 2, 3)),
        ("Thursday, Nov 30 2023 9am", datetime(2023, 11, 30, 9)),
        (-1_000, datetime(1969, 12, 31, 23, 59, 59, 999999)),
        (float("nan"), None),
        ("NaT", None),
        (0, datetime(1970, 1, 1)),
    ],
)
def test_is_read(text: Any, expected: datetime | None) -> None:
    assert parse_moment(text).time == expected


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("not-a-date", "Unknown datetime string format, unable to parse: not-a-date"),
        ("2023-11-31", "day is out of range for month: 2023-11-31"),
        ("2023-12-01 25:00:00", "hour must be in 0..23: 2023-12-01 25:00:00"),
        ("12", 'Given date string "12" not likely a datetime'),
        ("Friday", "Unable to parse datetime string: Friday"),
        ("friday 10:00", "Parsing datetimes with weekday but no day information is not supported"),
        ("-2023-11-30", "year -2023 is out of range"),
        ("0000-01-01", "year 0 is out of range"),
        ("t", 'Given date string "t" not likely a datetime'),
        (10**19, "Out of bounds nanosecond timestamp 10000000000000000000"),
    ],
)
def test_is_refused(text: Any, wanted: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_moment(text)
    # Python 3.14 says the same with more numbers in it.
    assert str(error.value) == wanted or str(error.value).endswith(str(text))


@pytest.mark.parametrize("value", [True, [1], {}, None])
def test_other_values_are_no_times(value: Any) -> None:
    with pytest.raises(TypeError, match="to Timestamp"):
        parse_moment(value)


def test_not_a_time_compares_false_and_zones_do_not_mix() -> None:
    nothing, noon = Moment(None), Moment(NOON)
    assert not (nothing < noon or noon < nothing or noon <= nothing or noon >= nothing)
    with pytest.raises(TypeError, match="tz-naive and tz-aware"):
        assert noon < parse_moment("2023-12-01T12:00:00Z")


@given(st.datetimes())
def test_iso_texts_come_back(when: datetime) -> None:
    assert parse_moment(when.isoformat()).time == parse_moment(when.isoformat(" ")).time == when
