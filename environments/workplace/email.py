"""The tools of the e-mail domain. What they return is what the policy sees; exceptions become texts in toolbox.py."""

from collections.abc import Callable
from typing import Any

from .office import Office
from .paging import page_of
from .sorting import latest_first
from .tables import Row
from .timestamps import Moment, parse_moment

_NOW = "2023-11-30 23:59:00"


def get_email_information_by_id(office: Office, email_id: Any = None, field: Any = None) -> Any:
    """One field of one e-mail."""
    if not email_id:
        return "Email ID not provided."
    if not field:
        return "Field not provided."

    def look_up() -> Any:
        found = office.emails.find("email_id", email_id)
        if not found:
            return "Email not found."
        if field not in found[0]:
            return f"Field '{field}' not found. Available fields: {', '.join(found[0])}"
        return {field: found[0][field]}

    return _or_error("retrieving email information", look_up)


def search_emails(
    office: Office, query: Any = "", date_min: Any = None, date_max: Any = None, page: Any = 1, page_size: Any = 5
) -> Any:
    """E-mails that hold every word of the query in subject, body or address, newest first; days are inclusive."""

    def search() -> Any:
        words = query.lower().split()
        table = office.emails
        places = [table.position[name] for name in ("subject", "body", "sender/recipient")]
        emails = [table.record(row) for row in table.rows if _holds(row, places, words)]
        emails = [emails[place] for place in latest_first([_sent(record).time for record in emails])]
        if date_min:
            emails = [record for record in emails if _sent(record).date() >= parse_moment(date_min).date()]
        if date_max:
            emails = [record for record in emails if _sent(record).date() <= parse_moment(date_max).date()]
        return page_of("emails", emails, page, page_size) or "No emails found."

    return _or_error("searching emails", search)


def send_email(office: Office, recipient: Any = None, subject: Any = None, body: Any = None) -> Any:
    """Adds a row to the outbox. Its id is not padded, and its time is always the same."""
    if not recipient or not subject or not body:
        return "Recipient, subject, or body not provided."
    if "@" not in recipient or "." not in recipient:
        return "Invalid recipient email address."

    def send() -> str:
        record = {
            "sender/recipient": recipient.lower(),
            "email_id": str(office.emails.next_id("email_id")) if office.emails.rows else "1",
            "inbox/outbox": "outbox",
            "subject": subject,
            "sent_datetime": _NOW,
            "body": body,
        }
        office.emails = office.emails.with_row(record, relabel=True)
        return "Email sent successfully."

    return _or_error("sending email", send)


def delete_email(office: Office, email_id: Any = None) -> Any:
    """Removes an e-mail."""
    if not email_id:
        return "Email ID not provided."

    def delete() -> str:
        if not office.emails.has("email_id", email_id):
            return "Email not found."
        office.emails = office.emails.without("email_id", email_id)
        return "Email deleted successfully."

    return _or_error("deleting email", delete)


def forward_email(office: Office, email_id: Any = None, recipient: Any = None) -> Any:
    """Sends an e-mail's body on, under `FW:` and its subject."""
    if not email_id or not recipient:
        return "Email ID or recipient not provided."
    if "@" not in recipient or "." not in recipient:
        return "Invalid recipient email address."

    def forward() -> str:
        if not office.emails.has("email_id", email_id):
            return "Email not found."
        found = office.emails.find("email_id", email_id)
        result = send_email(office, recipient.lower(), f"FW: {found[0]['subject']}", found[0]["body"])
        return result if "Error" in result or "Invalid" in result else "Email forwarded successfully."

    return _or_error("forwarding email", forward)


def reply_email(office: Office, email_id: Any = None, body: Any = None) -> Any:
    """Writes to the e-mail's address, under `RE:` and its subject."""
    if not email_id or not body:
        return "Email ID or body not provided."

    def reply() -> str:
        if not office.emails.has("email_id", email_id):
            return "Email not found."
        found = office.emails.find("email_id", email_id)
        result = send_email(office, found[0]["sender/recipient"], f"RE: {found[0]['subject']}", body)
        return result if "Error" in result or "Invalid" in result else "Email replied successfully."

    return _or_error("replying to email", reply)


def _holds(row: Row, places: list[int], words: list[str]) -> bool:
    if not words:
        return True
    subject, body, address = (row[place] for place in places)
    text = f"{subject} {body} {address}".lower()
    return all(word in text for word in words)


def _sent(record: dict[str, Any]) -> Moment:
    return parse_moment(record["sent_datetime"])


def _or_error(doing: str, action: Callable[[], Any]) -> Any:
    # This domain returns its failures as results; the others raise them to the toolbox.
    try:
        return action()
    except Exception as error:
        return f"Error {doing}: {error}"
