"""Points in time are read as pandas reads them."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.collect.environments.workplace.timestamps import Moment, parse_moment

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
        ("NaT", None),
        (0, datetime(1970, 1, 1)),
    ],
)
def test_is_read(text: Any, expected: datetime | None) -> None:
    assert parse_moment(text).time == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not-a-date", "Unknown datetime string format, unable to parse: not-a-date"),
        ("2023-11-31", "day is out of range for month: 2023-11-31"),
        ("2023-12-01 25:00:00", "hour must be in 0..23: 2023-12-01 25:00:00"),
        ("12", 'Given date string "12" not likely a datetime'),
        ("Friday", "Unable to parse datetime string: Friday"),
    ],
)
def test_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_moment(text)
    # Python 3.14 says the same with more numbers in it.
    assert str(error.value) == says or str(error.value).endswith(text)


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
