"""The tools of the analytics domain. Days are texts, and bounds compare as texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .office import Office
from .tables import OfficeTable, Row, require_length

_VALUES = (
    "total_visits", "session_duration_seconds", "user_engaged", "visits_direct", "visits_referral",
    "visits_search_engine", "visits_social_media",
)  # fmt: skip
_PLOT_TYPES = ("bar", "line", "scatter", "histogram")


def get_visitor_information_by_id(office: Office, visitor_id: Any = None) -> Any:
    """Every visit of one visitor."""
    if not visitor_id:
        return "Visitor ID not provided."
    return office.visits.find("visitor_id", visitor_id) or "Visitor not found."


def create_plot(
    office: Office, time_min: Any = None, time_max: Any = None, value_to_plot: Any = None, plot_type: Any = None
) -> Any:
    """Records a plot and returns its file name."""
    if not time_min:
        return "Start date not provided."
    if not time_max:
        return "End date not provided."
    if value_to_plot not in _VALUES:
        return f"Value to plot must be one of {', '.join(map(repr, _VALUES))}"
    if plot_type not in _PLOT_TYPES:
        return "Plot type must be one of 'bar', 'line', 'scatter', or 'histogram'"
    path = f"plots/{time_min}_{time_max}_{value_to_plot}_{plot_type}.png"
    office.plots = office.plots.with_row({"file_path": path}, relabel=True)
    return path


def total_visits_count(office: Office, time_min: Any = None, time_max: Any = None) -> Any:
    """Visits of each day that has any."""
    return _total(office.visits, time_min, time_max, lambda visit: 1)


def engaged_users_count(office: Office, time_min: Any = None, time_max: Any = None) -> Any:
    """Engaged visits of each day that has visits."""
    engaged = office.visits.position["user_engaged"]
    return _total(office.visits, time_min, time_max, lambda visit: int(visit[engaged]))


def traffic_source_count(office: Office, time_min: Any = None, time_max: Any = None, traffic_source: Any = None) -> Any:
    """Visits from one source on each day that has visits; all visits when no source is given."""
    if not traffic_source:
        return total_visits_count(office, time_min, time_max)
    source = office.visits.position["traffic_source"]
    within = list(_between(office.visits, time_min, time_max))
    require_length(traffic_source, len(within))
    return _total(office.visits, time_min, time_max, lambda visit: int(visit[source] == traffic_source))


def get_average_session_duration(office: Office, time_min: Any = None, time_max: Any = None) -> Any:
    """Mean seconds a visit took, by day."""
    seconds = office.visits.position["session_duration_seconds"]
    if not time_min and not time_max:
        # Without bounds upstream turns the session's own column into numbers, which later look-ups then show.
        rows = tuple((*row[:seconds], float(row[seconds]), *row[seconds + 1 :]) for row in office.visits.rows)
        office.visits = replace(office.visits, rows=rows)
    visits = _total(office.visits, time_min, time_max, lambda visit: 1)
    total = _total(office.visits, time_min, time_max, lambda visit: float(visit[seconds]))
    return {day: total[day] / visits[day] for day in visits}


def _total(visits: OfficeTable, time_min: Any, time_max: Any, amount: Any) -> dict[str, Any]:
    """The sum of `amount(visit)` for each day within the bounds, days in order."""
    day = visits.position["date_of_visit"]
    totals: Counter[str] = Counter()
    for visit in _between(visits, time_min, time_max):
        totals[visit[day]] += amount(visit)
    return dict(sorted(totals.items()))


def _between(visits: OfficeTable, time_min: Any, time_max: Any) -> list[Row]:
    day = visits.position["date_of_visit"]
    rows: Sequence[Row] = visits.rows
    if time_min:
        require_length(time_min, len(rows))
        rows = [visit for visit in rows if visit[day] >= time_min]
    if time_max:
        require_length(time_max, len(rows))
        rows = [visit for visit in rows if visit[day] <= time_max]
    return list(rows)
