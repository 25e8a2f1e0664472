"""The tool schemas that the policy sees: names and parameters are the Workplace Assistant's, the descriptions ours."""

from typing import Any

SYSTEM_PROMPT = (
    "You are Sam's assistant at work. Today is Thursday, 2023-11-30, and it is 23:59 now: read every date and time in a request from there. "
    "Meetings begin at 9am at the earliest and are over by 6pm. Use the tools to do what is asked, and nothing that is not; "
    "look up what you need to know, such as ids and e-mail addresses."
)
"""The system message of the generated tasks."""

_PLOTTED = "total_visits, session_duration_seconds, user_engaged, visits_direct, visits_referral, visits_search_engine or visits_social_media"
_PERIOD = {"time_min": "First day, YYYY-MM-DD.", "time_max": "Last day, YYYY-MM-DD."}
_PAGES = {"page": "Which page, from 1.", "page_size": "Rows a page, 5 unless given."}
_MOMENT = "YYYY-MM-DD HH:MM:SS"
_LIST = "Backlog, In Progress, In Review or Completed."
_BOARD = "Back end, Front end or Design."
_STATUS = "Qualified, Won, Lost, Lead or Proposal."
_PRODUCT = "Software, Hardware, Services, Consulting or Training."
_CRM = "customer_relationship_manager"

# Name, what it does, required parameters, other parameters; each parameter with its description.
_TOOLS: tuple[tuple[str, str, dict[str, str], dict[str, str]], ...] = (
    ("company_directory_find_email_address", "E-mail addresses of colleagues whose address contains a name.", {}, {"name": "A name or a part of one."}),
    ("email_get_email_information_by_id", "One field of an e-mail.", {"email_id": "The e-mail.", "field": "email_id, inbox/outbox, sender/recipient, subject, sent_datetime or body."}, {}),
    ("email_search_emails", "E-mails that hold every word of a query in subject, body or address, newest first.", {}, {"query": "Words to look for.", "date_min": "First day sent, YYYY-MM-DD.", "date_max": "Last day sent, YYYY-MM-DD.", **_PAGES}),
    ("email_send_email", "Sends an e-mail.", {"recipient": "Address.", "subject": "Subject line.", "body": "Text."}, {}),
    ("email_delete_email", "Deletes an e-mail.", {"email_id": "The e-mail."}, {}),
    ("email_forward_email", "Forwards an e-mail.", {"email_id": "The e-mail.", "recipient": "Address."}, {}),
    ("email_reply_email", "Replies to an e-mail.", {"email_id": "The e-mail.", "body": "Text."}, {}),
    ("calendar_get_event_information_by_id", "One field of an event.", {"event_id": "The event's 8-digit id.", "field": "event_id, event_name, participant_email, event_start or duration."}, {}),
    ("calendar_search_events", "Events whose name or participant matches a query, latest first.", {}, {"query": "Part of the name or of the participant's address.", "time_min": f"Earliest start, {_MOMENT}.", "time_max": f"Latest start, {_MOMENT}.", **_PAGES}),
    ("calendar_create_event", "Creates an event and returns its id.", {"event_name": "Name.", "participant_email": "Address of the participant.", "event_start": f"Start, {_MOMENT}.", "duration": "Minutes."}, {}),
    ("calendar_delete_event", "Deletes an event.", {"event_id": "The event's 8-digit id."}, {}),
    ("calendar_update_event", "Changes one field of an event.", {"event_id": "The event's 8-digit id.", "field": "event_name, participant_email, event_start or duration.", "new_value": "What it becomes."}, {}),
    ("analytics_get_visitor_information_by_id", "All visits of a visitor.", {"visitor_id": "The visitor."}, {}),
    ("analytics_create_plot", "Plots a value over a period.", {**_PERIOD, "value_to_plot": f"{_PLOTTED}.", "plot_type": "bar, line, scatter or histogram."}, {}),
    ("analytics_total_visits_count", "Visits of each day in a period.", {}, _PERIOD),
    ("analytics_engaged_users_count", "Engaged visitors of each day in a period.", {}, _PERIOD),
    ("analytics_traffic_source_count", "Visits from one source on each day of a period.", {}, {**_PERIOD, "traffic_source": "direct, referral, search engine or social media."}),
    ("analytics_get_average_session_duration", "Mean seconds of a visit on each day in a period.", {}, _PERIOD),
    ("project_management_get_task_information_by_id", "One field of a task.", {"task_id": "The task's 8-digit id.", "field": "task_id, task_name, assigned_to_email, list_name, due_date or board."}, {}),
    ("project_management_search_tasks", "All tasks that match what is given.", {}, {"task_name": "Part of the name.", "assigned_to_email": "Whole address of the assignee.", "list_name": _LIST, "due_date": "Day or part of it, YYYY-MM-DD.", "board": _BOARD}),
    ("project_management_create_task", "Creates a task and returns its id.", {"task_name": "Name.", "assigned_to_email": "Address of the assignee.", "list_name": _LIST, "due_date": "Day, YYYY-MM-DD.", "board": _BOARD}, {}),
    ("project_management_delete_task", "Deletes a task.", {"task_id": "The task's 8-digit id."}, {}),
    ("project_management_update_task", "Changes one field of a task.", {"task_id": "The task's 8-digit id.", "field": "task_name, assigned_to_email, list_name, due_date or board.", "new_value": "What it becomes."}, {}),
    (f"{_CRM}_search_customers", "Customers that match everything given.", {}, {"customer_name": "Part of the name.", "customer_email": "Part of the address.", "product_interest": _PRODUCT, "status": _STATUS, "assigned_to_email": "Part of the address of the colleague in charge.", "last_contact_date_min": "Earliest last contact, YYYY-MM-DD.", "last_contact_date_max": f"Latest last contact, {_MOMENT}.", "follow_up_by_min": "Earliest follow-up, YYYY-MM-DD.", "follow_up_by_max": f"Latest follow-up, {_MOMENT}.", **_PAGES}),
    (f"{_CRM}_update_customer", "Changes one field of a customer.", {"customer_id": "The customer's 8-digit id.", "field": "customer_name, assigned_to_email, customer_email, customer_phone, last_contact_date, product_interest, status, notes or follow_up_by.", "new_value": "What it becomes."}, {}),
    (f"{_CRM}_add_customer", "Adds a customer and returns the id.", {"customer_name": "Name.", "assigned_to_email": "Address of the colleague in charge.", "status": _STATUS}, {"customer_email": "Address.", "customer_phone": "Number.", "last_contact_date": "Day, YYYY-MM-DD.", "product_interest": _PRODUCT, "notes": "Text.", "follow_up_by": "Day, YYYY-MM-DD."}),
    (f"{_CRM}_delete_customer", "Deletes a customer.", {"customer_id": "The customer's 8-digit id."}, {}),
)  # fmt: skip


def tool_schemas() -> list[dict[str, Any]]:
    """The 27 tools in the flat form of the Responses API, in order."""
    return [_schema(*tool) for tool in _TOOLS]


def _schema(name: str, description: str, required: dict[str, str], optional: dict[str, str]) -> dict[str, Any]:
    properties = {
        parameter: {"type": "integer" if parameter in _PAGES else "string", "description": text}
        for parameter, text in (required | optional).items()
    }
    parameters = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {"type": "function", "name": name, "description": description, "parameters": parameters, "strict": False}
