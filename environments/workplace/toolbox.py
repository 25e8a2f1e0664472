"""The 27 tools by name, and how a call becomes the text a policy sees."""

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..tools import ToolOutput
from .analytics import (
    create_plot,
    engaged_users_count,
    get_average_session_duration,
    get_visitor_information_by_id,
    total_visits_count,
    traffic_source_count,
)
from .calendar import create_event, delete_event, get_event_information_by_id, search_events, update_event
from .customers import add_customer, delete_customer, search_customers, update_customer
from .directory import find_email_address
from .email import delete_email, forward_email, get_email_information_by_id, reply_email, search_emails, send_email
from .office import Office
from .projects import create_task, delete_task, get_task_information_by_id, search_tasks, update_task


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        function: Takes the office and named arguments.
        owner: What upstream calls the tool's class; error texts name it.
        writes: Whether it can change what the verdict compares.
        takes_patterns: Whether it matches regular expressions.
    """

    function: Callable[..., Any]
    owner: str
    writes: bool
    takes_patterns: bool = False

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


_WITH_PATTERNS = (find_email_address, search_events, search_tasks, search_customers)


def _domain(prefix: str, owner: str, reads: tuple[Any, ...], writes: tuple[Any, ...] = ()) -> dict[str, Tool]:
    tools = [Tool(function, owner, False, function in _WITH_PATTERNS) for function in reads]
    tools += [Tool(function, owner, True) for function in writes]
    return {f"{prefix}_{tool.function.__name__}": tool for tool in tools}


TOOLS: dict[str, Tool] = {
    **_domain("company_directory", "CompanyDirectoryTool", (find_email_address,)),
    **_domain(
        "email",
        "EmailTool",
        (get_email_information_by_id, search_emails),
        (send_email, delete_email, forward_email, reply_email),
    ),
    **_domain(
        "calendar",
        "CalendarTool",
        (get_event_information_by_id, search_events),
        (create_event, delete_event, update_event),
    ),
    **_domain(
        "analytics",
        "AnalyticsTool",
        (
            engaged_users_count,
            get_visitor_information_by_id,
            traffic_source_count,
            total_visits_count,
            get_average_session_duration,
        ),
        (create_plot,),
    ),
    **_domain(
        "project_management",
        "ProjectManagementTool",
        (get_task_information_by_id, search_tasks),
        (create_task, delete_task, update_task),
    ),
    **_domain(
        "customer_relationship_manager",
        "CustomerRelationshipManagerTool",
        (search_customers,),
        (update_customer, add_customer, delete_customer),
    ),
}


def call_tool(office: Office, name: str, arguments: Any) -> ToolOutput:
    """Runs a call as upstream's server does and returns the body of its answer.

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
    # A JSON null leaves the request without a body, which is another error.
    if value is None:
        problem = {"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}
    else:
        text = "Input should be a valid dictionary or object to extract fields from"
        problem = {"type": "model_attributes_type", "loc": ["body"], "msg": text, "input": value}
    return _compact({"detail": [problem]})


def _compact(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
