"""The state of one session: the tables its tools read and change."""

from dataclasses import dataclass, replace
from pathlib import Path

from .tables import OfficeTable, read_column, read_table

EMAIL_COLUMNS = ("email_id", "inbox/outbox", "sender/recipient", "subject", "sent_datetime", "body")
EVENT_COLUMNS = ("event_id", "event_name", "participant_email", "event_start", "duration")
TASK_COLUMNS = ("task_id", "task_name", "assigned_to_email", "list_name", "due_date", "board")
CUSTOMER_COLUMNS = (
    "customer_id", "assigned_to_email", "customer_name", "customer_email", "customer_phone", "last_contact_date",
    "product_interest", "status", "follow_up_by", "notes",
)  # fmt: skip
VISIT_COLUMNS = (
    "date_of_visit", "visitor_id", "page_views", "session_duration_seconds", "traffic_source", "user_engaged",
)  # fmt: skip


@dataclass
class Office:
    """Tables are immutable and shared; a tool that writes puts a new table in the old one's place.

    Attributes:
        plots: Files that were "plotted", one column.
        directory: The company's e-mail addresses, one column.
    """

    emails: OfficeTable
    events: OfficeTable
    tasks: OfficeTable
    customers: OfficeTable
    visits: OfficeTable
    plots: OfficeTable
    directory: OfficeTable

    def copy(self) -> "Office":
        """An office whose changes this one does not see."""
        return replace(self)


def read_office(folder: Path) -> Office:
    """Reads the six CSV files of a folder. Raises FormatError naming the file that is missing or wrong."""
    visits = read_table(folder / "analytics_data.csv", VISIT_COLUMNS)
    engaged = visits.position["user_engaged"]
    visit_rows = tuple((*row[:engaged], row[engaged] == "True", *row[engaged + 1 :]) for row in visits.rows)
    return Office(
        emails=read_table(folder / "emails.csv", EMAIL_COLUMNS),
        events=read_table(folder / "calendar_events.csv", EVENT_COLUMNS),
        tasks=read_table(folder / "project_tasks.csv", TASK_COLUMNS),
        customers=read_table(folder / "customer_relationship_manager_data.csv", CUSTOMER_COLUMNS),
        visits=replace(visits, rows=visit_rows),
        plots=OfficeTable(("file_path",), (), ()),
        directory=read_column(folder / "email_addresses.csv", "email_address"),
    )
