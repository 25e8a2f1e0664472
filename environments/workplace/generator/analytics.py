"""Kinds of tasks about the website's visits. The truth of each is a plot, or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from .desk import TODAY, Call, Desk, Draft, day_text
from .draw import OfficeDraw
from .words import SOURCES

_PLOTS = ("bar", "line", "scatter", "histogram")
_VALUES = {
    "total_visits": "total visits",
    "session_duration_seconds": "average session duration",
    "user_engaged": "engaged users",
    "visits_direct": "direct visits",
    "visits_referral": "visits from referrals",
    "visits_search_engine": "visits from search engines",
    "visits_social_media": "visits from social media",
}


@dataclass(frozen=True)
class Period:
    """A range of days, both ends included, and its wording."""

    first: date
    last: date
    text: str

    @property
    def bounds(self) -> dict[str, str]:
        """As the tools take it."""
        return {"time_min": self.first.isoformat(), "time_max": self.last.isoformat()}


def period(draw: OfficeDraw, desk: Desk, least: int = 3, most: int = 30) -> Period | None:
    """A period in which there are visits on every day."""
    days = list(desk.visits_on)
    length = draw.between(least, most)
    last = TODAY if draw.chance(0.4) else date.fromisoformat(draw.pick(days))
    first = last - timedelta(days=length - 1)
    if any((first + timedelta(days=n)).isoformat() not in desk.visits_on for n in range(length)):
        return None
    if last == TODAY and draw.chance(0.6):
        return Period(
            first, last, draw.pick((f"since {day_text(draw, first)}", f"from {day_text(draw, first)} until today"))
        )
    start, end = day_text(draw, first), day_text(draw, last)
    return Period(first, last, draw.pick((f"from {start} to {end}", f"between {start} and {end}")))


def plot_call(over: Period, value: str, plot: str) -> Call:
    """The call that plots."""
    return "analytics_create_plot", {**over.bounds, "value_to_plot": value, "plot_type": plot}


def visits(desk: Desk, over: Period, source: str | None = None) -> dict[str, int]:
    """Visits of each day of a period, from one source or all."""
    return {
        day: sum(source in (None, visit["traffic_source"]) for visit in rows)
        for day, rows in desk.visits_on.items()
        if over.first.isoformat() <= day <= over.last.isoformat()
    }


def _source_lookup(over: Period, source: str) -> Call:
    return "analytics_traffic_source_count", {**over.bounds, "traffic_source": source}


def _source_value(source: str) -> str:
    return f"visits_{source.replace(' ', '_')}"


def plot(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, value, shape = period(draw, desk), draw.pick(tuple(_VALUES)), draw.pick(_PLOTS)
    if over is None:
        return None
    what = _VALUES[value]
    phrasings = (
        f"Make a {shape} plot of {what} {over.text}.",
        f"Plot {what} {over.text} as a {shape} chart.",
        f"I would like to see {what} {over.text}. Use a {shape} plot.",
        f"Draw a {shape} chart that shows {what} {over.text}.",
    )
    return Draft(phrasings, [plot_call(over, value, shape)])


def plot_last_days(draw: OfficeDraw, desk: Desk) -> Draft | None:
    days, value, shape = draw.between(2, 45), draw.pick(tuple(_VALUES)), draw.pick(_PLOTS)
    over, what = Period(TODAY - timedelta(days=days), TODAY, ""), _VALUES[value]
    phrasings = (
        f"Plot {what} from {days} days ago until today as a {shape} chart.",
        f"Show me {what} in a {shape} plot that begins {days} days ago and ends today.",
        f"A {shape} chart of {what}, please, starting {days} days before today and including today.",
    )
    return Draft(phrasings, [plot_call(over, value, shape)], (), 1)


def plot_several(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, shape = period(draw, desk), draw.pick(_PLOTS)
    values = draw.sample(tuple(_VALUES), draw.pick((2, 3)))
    if over is None:
        return None
    what = ", ".join(_VALUES[value] for value in values[:-1]) + f" and {_VALUES[values[-1]]}"
    phrasings = (
        f"Make one {shape} plot each of {what} {over.text}.",
        f"I need {len(values)} {shape} charts {over.text}: {what}, in this order.",
        f"Plot {what} {over.text}, every one as a separate {shape} chart.",
    )
    return Draft(phrasings, [plot_call(over, value, shape) for value in values])


def plot_in_two_shapes(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, value, shapes = period(draw, desk), draw.pick(tuple(_VALUES)), draw.sample(_PLOTS, 2)
    if over is None:
        return None
    what = _VALUES[value]
    phrasings = (
        f"Plot {what} {over.text}, first as a {shapes[0]} chart and then as a {shapes[1]} chart.",
        f"Two plots of {what} {over.text}: {shapes[0]} first, {shapes[1]} second.",
        f"Show {what} {over.text} both as a {shapes[0]} plot and, after that, as a {shapes[1]} plot.",
    )
    return Draft(phrasings, [plot_call(over, value, shape) for shape in shapes])


def plot_if_many(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, shape = period(draw, desk, 2, 14), draw.pick(_PLOTS)
    if over is None:
        return None
    counts = visits(desk, over)
    limit = sum(counts.values()) + draw.between(-12, 12)
    more = draw.chance(0.5)
    holds = sum(counts.values()) > limit if more else sum(counts.values()) < limit
    word = "more" if more else "fewer"
    phrasings = (
        f"If there were {word} than {limit} visits in total {over.text}, make a {shape} plot of total visits for that time.",
        f"Count all visits {over.text}. {word.capitalize()} than {limit}? Then plot total visits over the same days as a {shape} chart; otherwise do nothing.",
        f"Plot total visits {over.text} ({shape} chart), but only if they add up to {word} than {limit}.",
    )
    calls = [plot_call(over, "total_visits", shape)] if holds else []
    return Draft(phrasings, calls, [("analytics_total_visits_count", over.bounds)], 1)


def plot_if_day(draw: OfficeDraw, desk: Desk) -> Draft | None:
    """A limit on every single day of a period."""
    over, shape = period(draw, desk, 3, 10), draw.pick(_PLOTS)
    if over is None:
        return None
    counts = [sum(visit["user_engaged"] for visit in desk.visits_on[day]) for day in visits(desk, over)]
    limit = max(1, draw.pick(sorted(counts)) + draw.between(-1, 1))
    holds = any(count < limit for count in counts)
    phrasings = (
        f"If fewer than {limit} users were engaged on any day {over.text}, make a {shape} plot of engaged users for that time.",
        f"Look at engaged users by day {over.text}. Was there a day with less than {limit}? Then plot engaged users over these days as a {shape} chart.",
        f"Plot engaged users {over.text} as a {shape} chart in case at least one of the days had fewer than {limit} of them; otherwise leave it.",
    )
    calls = [plot_call(over, "user_engaged", shape)] if holds else []
    return Draft(phrasings, calls, [("analytics_engaged_users_count", over.bounds)], 1)


def plot_if_long(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, shape = period(draw, desk, 2, 10), draw.pick(_PLOTS)
    if over is None:
        return None
    day, limit = over.last.isoformat(), draw.between(5, 40)
    seconds = [float(visit["session_duration_seconds"]) for visit in desk.visits_on[day]]
    mean = sum(seconds) / len(seconds)
    if abs(mean - limit) < 0.01:
        return None
    when = day_text(draw, over.last)
    phrasings = (
        f"If the average session on {when} took longer than {limit} seconds, plot the average session duration {over.text} as a {shape} chart.",
        f"Check the mean session duration of {when}. Above {limit} seconds? Then make a {shape} plot of average session duration {over.text}.",
        f"Make a {shape} chart of average session duration {over.text}, provided the average of {when} is over {limit} seconds. If it is not, do nothing.",
    )
    lookups = [("analytics_get_average_session_duration", {"time_min": day, "time_max": day})]
    calls = [plot_call(over, "session_duration_seconds", shape)] if mean > limit else []
    return Draft(phrasings, calls, lookups, 1)


def plot_better_source(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, shape, (one, other) = period(draw, desk), draw.pick(_PLOTS), draw.sample(SOURCES, 2)
    if over is None:
        return None
    first, second = (sum(visits(desk, over, source).values()) for source in (one, other))
    if first == second:
        return None
    winner = one if first > second else other
    phrasings = (
        f"Which brought more visits {over.text}, {one} or {other}? Make a {shape} plot of the visits from the stronger one over that time.",
        f"Compare {one} and {other} as traffic sources {over.text} and plot the one with more visits as a {shape} chart.",
        f"Plot visits {over.text} from either {one} or {other}, whichever had more, as a {shape} chart.",
    )
    calls = [plot_call(over, _source_value(winner), shape)]
    return Draft(phrasings, calls, [_source_lookup(over, one), _source_lookup(over, other)], 1)


def plot_top_source(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, shape = period(draw, desk, 4, 20), draw.pick(_PLOTS)
    if over is None:
        return None
    totals = sorted((sum(visits(desk, over, source).values()), source) for source in SOURCES)
    weakest = draw.chance(0.5)
    (best, source), (next_best, _) = (totals[0], totals[1]) if weakest else (totals[-1], totals[-2])
    if best == next_best:
        return None
    word = "fewest" if weakest else "most"
    phrasings = (
        f"Find the traffic source with the {word} visits {over.text} and make a {shape} plot of its visits in that time.",
        f"Of direct, social media, search engine and referral, plot the source that brought the {word} visits {over.text}. Use a {shape} chart.",
        f"A {shape} chart, please, of the visits from whichever traffic source had the {word} of them {over.text}.",
    )
    return Draft(
        phrasings, [plot_call(over, _source_value(source), shape)], [_source_lookup(over, s) for s in SOURCES], 1
    )


def plot_from_peak(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, shape, value = period(draw, desk, 5, 14), draw.pick(_PLOTS), draw.pick(tuple(_VALUES))
    if over is None:
        return None
    counts = visits(desk, over)
    quiet = draw.chance(0.5)
    edge = min(counts.values()) if quiet else max(counts.values())
    days = [day for day, count in counts.items() if count == edge]
    if len(days) > 1 or days[0] == over.last.isoformat():
        return None
    word, what = "fewest" if quiet else "most", _VALUES[value]
    phrasings = (
        f"Take the day with the {word} visits {over.text}, and make a {shape} plot of {what} from that day to {over.last}.",
        f"Which day had the {word} visits {over.text}? Plot {what} from then until {over.last}, as a {shape} chart.",
        f"Plot {what} as a {shape} chart. It starts on the day {over.text} that had the {word} visits and ends on {over.last}.",
    )
    calls = [plot_call(Period(date.fromisoformat(days[0]), over.last, ""), value, shape)]
    return Draft(phrasings, calls, [("analytics_total_visits_count", over.bounds)], 1)


def plot_if_visitor_engaged(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, shape = period(draw, desk), draw.pick(_PLOTS)
    if over is None:
        return None
    visitor = draw.pick(desk.visits_on[over.first.isoformat()])["visitor_id"]
    engaged = any(row["user_engaged"] for row in desk.office.visits.find("visitor_id", visitor))
    phrasings = (
        f"If visitor {visitor} was ever engaged, make a {shape} plot of engaged users {over.text}.",
        f"Look up visitor {visitor}. Engaged on at least one visit? Then plot engaged users {over.text} as a {shape} chart.",
        f"Make a {shape} chart of engaged users {over.text}, but only if visitor {visitor} has been engaged at least once.",
    )
    calls = [plot_call(over, "user_engaged", shape)] if engaged else []
    return Draft(phrasings, calls, [("analytics_get_visitor_information_by_id", {"visitor_id": visitor})], 1)


KINDS: Sequence = (
    *(plot, plot_last_days, plot_several, plot_in_two_shapes, plot_if_many, plot_if_day, plot_if_long),
    *(plot_better_source, plot_top_source, plot_from_peak, plot_if_visitor_engaged),
)
HELD_OUT = (plot_from_peak,)
