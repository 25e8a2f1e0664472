"""The office: one table a domain and the tools that work on it.

A state is a dict of lists of rows (dicts of strings). A tool takes the state and strings, changes the state in place and returns
what the caller sees. A tool that cannot do its work raises ToolError and changes nothing.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

State = dict[str, list[dict[str, str]]]


class ToolError(Exception):
    """What a tool answers when it refuses: the policy sees the text."""


def _find(rows: list[dict[str, str]], key: str, value: str) -> dict[str, str]:
    for row in rows:
        if row[key] == value:
            return row
    raise ToolError(f"{key} {value} not found.")


def _search(rows: list[dict[str, str]], query: str) -> list[dict[str, str]]:
    """Rows of which some field contains the query, in table order."""
    found = [row for row in rows if query and any(query.lower() in value.lower() for value in row.values())]
    if not found:
        raise ToolError("Nothing found.")
    return found


def _new_id(rows: list[dict[str, str]], key: str) -> str:
    return str(max((int(row[key]) for row in rows), default=999) + 1)


def email_search(state: State, query: str) -> Any:
    """Finds emails of the inbox by a text in sender or subject."""
    return _search(state["inbox"], query)


def email_send(state: State, recipient: str, subject: str, body: str) -> Any:
    """Sends a new email."""
    state["outbox"].append({"recipient": recipient, "subject": subject, "body": body})
    return "Email sent."


def email_reply(state: State, email_id: str, body: str) -> Any:
    """Answers the sender of an email of the inbox."""
    email = _find(state["inbox"], "email_id", email_id)
    state["outbox"].append({"recipient": email["sender"], "subject": "RE: " + email["subject"], "body": body})
    return "Reply sent."


def email_forward(state: State, email_id: str, recipient: str) -> Any:
    """Passes an email of the inbox on."""
    email = _find(state["inbox"], "email_id", email_id)
    state["outbox"].append({"recipient": recipient, "subject": "FW: " + email["subject"], "body": ""})
    return "Email forwarded."


def email_delete(state: State, email_id: str) -> Any:
    """Removes an email from the inbox."""
    state["inbox"].remove(_find(state["inbox"], "email_id", email_id))
    return "Email deleted."


def calendar_search(state: State, query: str) -> Any:
    """Finds events by a text in any field."""
    return _search(state["events"], query)


def calendar_create(state: State, name: str, participant: str, day: str, time: str) -> Any:
    """Plans a new event."""
    event_id = _new_id(state["events"], "event_id")
    state["events"].append({"event_id": event_id, "name": name, "participant": participant, "day": day, "time": time})
    return "Event created."


def calendar_move(state: State, event_id: str, day: str, time: str) -> Any:
    """Moves an event to another day and time."""
    _find(state["events"], "event_id", event_id).update(day=day, time=time)
    return "Event moved."


def calendar_invite(state: State, event_id: str, participant: str) -> Any:
    """Replaces the participant of an event."""
    _find(state["events"], "event_id", event_id).update(participant=participant)
    return "Participant invited."


def calendar_delete(state: State, event_id: str) -> Any:
    """Cancels an event."""
    state["events"].remove(_find(state["events"], "event_id", event_id))
    return "Event deleted."


def project_search(state: State, query: str) -> Any:
    """Finds tasks by a text in any field."""
    return _search(state["tasks"], query)


def project_create(state: State, title: str, assignee: str, column: str) -> Any:
    """Adds a task to the board."""
    task_id = _new_id(state["tasks"], "task_id")
    state["tasks"].append({"task_id": task_id, "title": title, "assignee": assignee, "column": column})
    return "Task created."


def project_assign(state: State, task_id: str, assignee: str) -> Any:
    """Gives a task to somebody."""
    _find(state["tasks"], "task_id", task_id).update(assignee=assignee)
    return "Task assigned."


def project_move(state: State, task_id: str, column: str) -> Any:
    """Moves a task to another column of the board."""
    _find(state["tasks"], "task_id", task_id).update(column=column)
    return "Task moved."


def project_delete(state: State, task_id: str) -> Any:
    """Removes a task from the board."""
    state["tasks"].remove(_find(state["tasks"], "task_id", task_id))
    return "Task deleted."


DOMAINS: dict[str, tuple[Callable[..., Any], ...]] = {
    "email": (email_search, email_send, email_reply, email_forward, email_delete),
    "calendar": (calendar_search, calendar_create, calendar_move, calendar_invite, calendar_delete),
    "projects": (project_search, project_create, project_assign, project_move, project_delete),
}
TABLE = {"email": "inbox", "calendar": "events", "projects": "tasks"}
TOOLS: dict[str, Callable[..., Any]] = {tool.__name__: tool for tools in DOMAINS.values() for tool in tools}


def call_tool(state: State, name: str, arguments: Any) -> Any:
    """Runs one tool on the state. Raises ToolError for a tool that the state's domain does not have, arguments that do not fit and refusals."""
    if name not in [tool.__name__ for domain, table in TABLE.items() if table in state for tool in DOMAINS[domain]]:
        raise ToolError(f"Unknown tool {name}.")
    wanted = argument_names(TOOLS[name])
    if not isinstance(arguments, dict) or set(arguments) != set(wanted):
        raise ToolError(f"{name} takes {', '.join(wanted)}.")
    if not all(isinstance(value, str) for value in arguments.values()):
        raise ToolError(f"{name} takes texts.")
    return TOOLS[name](state, **arguments)


@cache
def argument_names(tool: Callable[..., Any]) -> tuple[str, ...]:
    """The caller's arguments: every parameter but the state."""
    return tuple(inspect.signature(tool).parameters)[1:]


def tool_schemas(domain: str) -> tuple[dict[str, Any], ...]:
    """The domain's tools in OpenAI chat form, in order; every argument is a required string."""
    return tuple(_schema(tool) for tool in DOMAINS[domain])


def _schema(tool: Callable[..., Any]) -> dict[str, Any]:
    names = argument_names(tool)
    parameters = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}
    function = {"name": tool.__name__, "description": tool.__doc__, "parameters": parameters}
    return {"type": "function", "function": function}
