"""The 27 tools by name, and how a call becomes the text a policy sees."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...tools import ToolOutput
from . import analytics, calendar, customers, directory, email, projects
from .office import Office
from .tables import is_null


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        function: Takes the office and named arguments.
        owner: What upstream calls the tool's class; error texts name it.
        writes: Whether it can change what the verdict compares.
    """

    function: Callable[..., Any]
    owner: str
    writes: bool

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of the arguments."""
        return frozenset(list(inspect.signature(self.function).parameters)[1:])

    def call(self, office: Office, arguments: dict[str, Any]) -> Any:
        """Runs the tool. Raises TypeError for an argument it does not take, and whatever the tool raises."""
        for name in arguments:
            if name not in self.parameters:
                problem = "multiple values for argument" if name == "self" else "an unexpected keyword argument"
                raise TypeError(f"{self.owner}.{self.function.__name__}() got {problem} '{name}'")
        return self.function(office, **arguments)


def _domain(prefix: str, owner: str, reads: tuple[Any, ...], writes: tuple[Any, ...] = ()) -> dict[str, Tool]:
    tools = [Tool(function, owner, False) for function in reads] + [Tool(function, owner, True) for function in writes]
    return {f"{prefix}_{tool.function.__name__}": tool for tool in tools}


TOOLS: dict[str, Tool] = {
    **_domain("company_directory", "CompanyDirectoryTool", (directory.find_email_address,)),
    **_domain(
        "email",
        "EmailTool",
        (email.get_email_information_by_id, email.search_emails),
        (email.send_email, email.delete_email, email.forward_email, email.reply_email),
    ),
    **_domain(
        "calendar",
        "CalendarTool",
        (calendar.get_event_information_by_id, calendar.search_events),
        (calendar.create_event, calendar.delete_event, calendar.update_event),
    ),
    **_domain(
        "analytics",
        "AnalyticsTool",
        (
            analytics.engaged_users_count,
            analytics.get_visitor_information_by_id,
            analytics.traffic_source_count,
            analytics.total_visits_count,
            analytics.get_average_session_duration,
        ),
        (analytics.create_plot,),
    ),
    **_domain(
        "project_management",
        "ProjectManagementTool",
        (projects.get_task_information_by_id, projects.search_tasks),
        (projects.create_task, projects.delete_task, projects.update_task),
    ),
    **_domain(
        "customer_relationship_manager",
        "CustomerRelationshipManagerTool",
        (customers.search_customers,),
        (customers.update_customer, customers.add_customer, customers.delete_customer),
    ),
}


def call_tool(office: Office, name: str, arguments: Any) -> ToolOutput:
    """Runs a call as upstream's server does and gives the body it answers with.

    Null arguments are dropped first. `verify` and `seed_session`, which are the server's own, count as unknown tools.
    """
    if not isinstance(arguments, dict):
        return ToolOutput(_not_an_object(arguments), failed=True)
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        output, failed = TOOLS[name].call(office, given), False
    except Exception as error:
        output, failed = f"Error executing tool '{name}': {error}", True
    return ToolOutput(_compact({"output": output}), failed)


def _not_an_object(value: Any) -> str:
    # A JSON null leaves the request without a body, which is another complaint.
    if value is None:
        problem = {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}
    else:
        text = "Input should be a valid dictionary or object to extract fields from"
        problem = {"type": "model_attributes_type", "loc": ["body"], "msg": text, "input": value}
    return _compact({"detail": [problem]})


def _compact(value: Any) -> str:
    return json.dumps(_without_nan(value), ensure_ascii=False, separators=(",", ":"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if is_null(value) else value
