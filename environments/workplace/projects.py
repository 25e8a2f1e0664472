"""The tools of the project board. What they return is what the policy sees; exceptions become texts in toolbox.py."""

import re
from typing import Any

from .office import Office
from .tables import contains

_LISTS = ("Backlog", "In Progress", "In Review", "Completed")
_BOARDS = ("Back end", "Front end", "Design")
_BAD_LIST = "List not valid. Please choose from: 'Backlog', 'In Progress', 'In Review', 'Completed'."
_BAD_BOARD = "Board not valid. Please choose from: 'Back end', 'Front end', 'Design'."
_BAD_ASSIGNEE = "Assignee email not valid. Please choose from the list of team members."
_EMAIL = re.compile(r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}$", re.IGNORECASE | re.ASCII)


def get_task_information_by_id(office: Office, task_id: Any = None, field: Any = None) -> Any:
    """One field of one task."""
    if not task_id:
        return "Task ID not provided."
    if not field:
        return "Field not provided."
    found = office.tasks.find("task_id", task_id)
    if not found:
        return "Task not found."
    return {field: found[0][field]} if field in found[0] else "Field not found."


def search_tasks(
    office: Office,
    task_name: Any = None,
    assigned_to_email: Any = None,
    list_name: Any = None,
    due_date: Any = None,
    board: Any = None,
) -> Any:
    """Tasks that match every given pattern, in table order; the assignee matches exactly, case ignored."""
    if not any([task_name, assigned_to_email, list_name, due_date, board]):
        return "No search parameters provided."
    if assigned_to_email and not _EMAIL.match(assigned_to_email):
        return "Invalid email format for assigned_to_email."
    tasks = office.tasks
    if task_name:
        tasks = tasks.where(contains(tasks.cells("task_name"), task_name))
    if assigned_to_email:
        tasks = tasks.where([owner == assigned_to_email.lower() for owner in tasks.texts("assigned_to_email")])
    for column, pattern in (("list_name", list_name), ("due_date", due_date), ("board", board)):
        if pattern:
            tasks = tasks.where(contains(tasks.cells(column), pattern))
    return tasks.records()


def create_task(
    office: Office,
    task_name: Any = None,
    assigned_to_email: Any = None,
    list_name: Any = None,
    due_date: Any = None,
    board: Any = None,
) -> Any:
    """Adds a task for someone who already has one. Returns its id."""
    if not all([task_name, assigned_to_email, list_name, due_date, board]):
        return "Missing task details."
    assigned_to_email = assigned_to_email.lower()
    if assigned_to_email not in office.tasks.texts("assigned_to_email"):
        return _BAD_ASSIGNEE
    if list_name not in _LISTS:
        return _BAD_LIST
    if board not in _BOARDS:
        return _BAD_BOARD
    record = {
        "task_id": str(office.tasks.next_id("task_id")).zfill(8),
        "task_name": task_name,
        "assigned_to_email": assigned_to_email,
        "list_name": list_name,
        "due_date": due_date,
        "board": board,
    }
    office.tasks = office.tasks.with_row(record, relabel=True)
    return record["task_id"]


def delete_task(office: Office, task_id: Any = None) -> Any:
    """Removes a task."""
    if not task_id:
        return "Task ID not provided."
    if not office.tasks.has("task_id", task_id):
        return "Task not found."
    office.tasks = office.tasks.without("task_id", task_id)
    return "Task deleted successfully."


def update_task(office: Office, task_id: Any = None, field: Any = None, new_value: Any = None) -> Any:
    """Changes one field of a task."""
    if not task_id or not field or not new_value:
        return "Task ID, field, or new value not provided."
    if field == "assigned_to_email":
        new_value = new_value.lower()
    if field == "board" and new_value not in _BOARDS:
        return _BAD_BOARD
    if field == "list_name" and new_value not in _LISTS:
        return _BAD_LIST
    if field == "assigned_to_email" and new_value not in office.tasks.texts("assigned_to_email"):
        return _BAD_ASSIGNEE
    if not office.tasks.has("task_id", task_id):
        return "Task not found."
    if field not in office.tasks.position:
        return "Field not valid."
    office.tasks = office.tasks.with_cell("task_id", task_id, field, new_value)
    return "Task updated successfully."
