"""Kinds of tasks about the project board."""

from collections.abc import Sequence
from datetime import date, timedelta

from .desk import TODAY, Call, Desk, Draft, Person, Record, day_text, workday
from .draw import OfficeDraw
from .words import BOARDS, LISTS, PARTS, PLACES, VERBS


def task_name(draw: OfficeDraw) -> str:
    """A new task's name."""
    return f"{draw.pick(VERBS)} {draw.pick(PARTS)} {draw.pick(PLACES)}"


def create_call(name: str, person: Person, due: date, board: str, list_name: str = "Backlog") -> Call:
    """The call that creates a task."""
    return "project_management_create_task", {
        "task_name": name,
        "assigned_to_email": person.email,
        "list_name": list_name,
        "due_date": due.isoformat(),
        "board": board,
    }


def update_call(task: Record, field: str, value: str) -> Call:
    """The call that changes a task."""
    return "project_management_update_task", {"task_id": task["task_id"], "field": field, "new_value": value}


def delete_call(task: Record) -> Call:
    """The call that deletes a task."""
    return "project_management_delete_task", {"task_id": task["task_id"]}


def search(**arguments: str) -> Call:
    """The call that shows tasks."""
    return "project_management_search_tasks", arguments


def assignee(draw: OfficeDraw, desk: Desk) -> Person | None:
    """A person of the directory with a task; others cannot get one."""
    return desk.person(draw, desk.tasks_of)


def named(draw: OfficeDraw, desk: Desk) -> tuple[Record, str, Call] | None:
    """A task, its description (with the due date if the name is not unique), and the call that shows it."""
    if not desk.own_tasks:
        return None
    task, alone = draw.pick(desk.own_tasks)
    name, due = task["task_name"], task["due_date"]
    if alone:
        return task, f"'{name}'", search(task_name=name)
    return task, f"'{name}' (due {day_text(draw, date.fromisoformat(due))})", search(task_name=name, due_date=due)


def create(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person = assignee(draw, desk)
    if person is None:
        return None
    name, due, board, list_name = task_name(draw), workday(draw), draw.pick(BOARDS), draw.pick(LISTS[:3])
    when = day_text(draw, due)
    phrasings = (
        f"Create a task '{name}' for {person.name} on the {board} board, list {list_name}, due {when}.",
        f"{person.name} gets a new {board} task in {list_name}: '{name}'. It is due on {when}.",
        f"Add '{name}' to {list_name} on the {board} board. {person.name} will do it; the due date is {when}.",
        f"Please open the task '{name}' ({board}, {list_name}) and assign it to {person.name}, with {when} as the due date.",
    )
    return Draft(phrasings, [create_call(name, person, due, board, list_name)], [person.lookup])


def move(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, target = named(draw, desk), draw.pick(LISTS)
    if found is None:
        return None
    task, name, lookup = found
    if task["list_name"] == target:
        return None
    phrasings = (
        f"Move the task {name} to {target}.",
        f"The task {name} belongs in {target} now.",
        f"Put the task {name} into the list {target}.",
        f"Change the list of {name} to {target}.",
    )
    return Draft(phrasings, [update_call(task, "list_name", target)], [lookup])


def reassign(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, person = named(draw, desk), assignee(draw, desk)
    if found is None:
        return None
    task, name, lookup = found
    if person is None or task["assigned_to_email"] == person.email:
        return None
    phrasings = (
        f"Assign the task {name} to {person.name}.",
        f"{person.name} takes over {name}. Update the board.",
        f"Let {person.name} do the task {name} from now on.",
    )
    return Draft(phrasings, [update_call(task, "assigned_to_email", person.email)], [lookup, person.lookup])


def delete(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = named(draw, desk)
    if found is None:
        return None
    task, name, lookup = found
    phrasings = (
        f"Delete the task {name}.",
        f"We will not do {name} after all. Remove the task.",
        f"Take {name} off the project board.",
    )
    return Draft(phrasings, [delete_call(task)], [lookup])


def set_due(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, due = named(draw, desk), workday(draw)
    if found is None:
        return None
    task, name, lookup = found
    if task["due_date"] == due.isoformat():
        return None
    when = day_text(draw, due)
    phrasings = (
        f"Set the due date of {name} to {when}.",
        f"The task {name} gets another due date, {when}. Change it.",
        f"Give the task {name} a new due date: {when}.",
    )
    return Draft(phrasings, [update_call(task, "due_date", due.isoformat())], [lookup])


def postpone(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, days = named(draw, desk), draw.between(1, 10)
    if found is None:
        return None
    task, name, lookup = found
    due = date.fromisoformat(task["due_date"]) + timedelta(days=days)
    length = "one day" if days == 1 else "one week" if days == 7 else f"{days} days"
    phrasings = (
        f"Postpone {name} by {length}.",
        f"The task {name} needs {length} more. Move its due date.",
        f"Let {name} be finished {length} later than it says now.",
    )
    return Draft(phrasings, [update_call(task, "due_date", due.isoformat())], [lookup], 1)


def rename(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, name = named(draw, desk), task_name(draw)
    if found is None:
        return None
    task, old, lookup = found
    if task["task_name"].lower() == name.lower():
        return None
    phrasings = (
        f"Rename the task {old} to '{name}'.",
        f"Call the task {old} '{name}' instead.",
        f"The name of {old} should be '{name}'. Please update the board.",
    )
    return Draft(phrasings, [update_call(task, "task_name", name)], [lookup])


def change_board(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, board = named(draw, desk), draw.pick(BOARDS)
    if found is None:
        return None
    task, name, lookup = found
    if task["board"] == board:
        return None
    phrasings = (
        f"Move the task {name} to the {board} board.",
        f"The task {name} is on the wrong board; it should be on {board}.",
        f"Change the board of {name} to {board}.",
    )
    return Draft(phrasings, [update_call(task, "board", board)], [lookup])


def move_all(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, (source, target), board = assignee(draw, desk), draw.sample(LISTS, 2), draw.pick(BOARDS)
    if person is None:
        return None
    some = draw.pick(desk.tasks_of[person.email])
    if draw.chance(0.75) and some["list_name"] != target:
        source, board = some["list_name"], some["board"]
    tasks = [task for task in desk.tasks_of[person.email] if (task["list_name"], task["board"]) == (source, board)]
    if len(tasks) > 4:
        return None
    phrasings = (
        f"Move all of {person.name}'s {board} tasks in {source} to {target}.",
        f"Everything {person.name} has in {source} on the {board} board goes to {target}.",
        f"Put each {board} task of {person.name} that is in {source} into {target}. There may be none.",
    )
    lookups = [person.lookup, search(assigned_to_email=person.email, list_name=source, board=board)]
    return Draft(phrasings, [update_call(task, "list_name", target) for task in tasks], lookups)


def delete_overdue(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person = assignee(draw, desk)
    if person is None:
        return None
    open_tasks = [task for task in desk.tasks_of[person.email] if task["list_name"] == "Backlog"]
    late = [task for task in open_tasks if task["due_date"] < TODAY.isoformat()]
    if len(late) > 4:
        return None
    phrasings = (
        f"Delete every task in {person.name}'s Backlog that was due before today.",
        f"{person.name} will not get to the overdue tasks in the Backlog (due before today). Remove them.",
        f"Tasks of {person.name} that still sit in the Backlog although their due date is past should be deleted; today's are not late yet.",
    )
    lookups = [person.lookup, search(assigned_to_email=person.email, list_name="Backlog")]
    return Draft(phrasings, [delete_call(task) for task in late], lookups, 1)


def hand_over_day(draw: OfficeDraw, desk: Desk) -> Draft | None:
    """One person's tasks due on a day are assigned to another."""
    person = assignee(draw, desk)
    other = desk.person(draw, [email for email in desk.tasks_of if person is None or email != person.email])
    if person is None or other is None:
        return None
    due = draw.pick(desk.tasks_of[person.email])["due_date"]
    tasks = [task for task in desk.tasks_of[person.email] if task["due_date"] == due]
    if len(tasks) > 3:
        return None
    when = day_text(draw, date.fromisoformat(due))
    phrasings = (
        f"Give all tasks of {person.name} that are due on {when} to {other.name}.",
        f"{person.name} is away on {when}: reassign what is due that day to {other.name}.",
        f"{other.name} takes every task that {person.name} has due on {when}.",
    )
    lookups = [person.lookup, search(assigned_to_email=person.email, due_date=due), other.lookup]
    return Draft(phrasings, [update_call(task, "assigned_to_email", other.email) for task in tasks], lookups)


def start_next(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person = assignee(draw, desk)
    backlog = [] if person is None else [task for task in desk.tasks_of[person.email] if task["list_name"] == "Backlog"]
    backlog.sort(key=lambda task: task["due_date"])
    last = draw.chance(0.3)
    if person is None or len(backlog) < 2:
        return None
    task, neighbour = (backlog[-1], backlog[-2]) if last else (backlog[0], backlog[1])
    if task["due_date"] == neighbour["due_date"]:
        return None
    word = "last" if last else "first"
    phrasings = (
        f"Of the tasks in {person.name}'s Backlog, move the one that is due {word} to In Progress.",
        f"{person.name} begins with the Backlog task due {word}: put it into In Progress.",
        f"Find the task with the {'latest' if last else 'earliest'} due date in {person.name}'s Backlog and move it to In Progress.",
    )
    lookups = [person.lookup, search(assigned_to_email=person.email, list_name="Backlog")]
    return Draft(phrasings, [update_call(task, "list_name", "In Progress")], lookups, 1)


def finish_if(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, expected, target = named(draw, desk), draw.pick(LISTS), draw.pick(LISTS)
    if found is None:
        return None
    task, name, lookup = found
    if expected == target:
        return None
    phrasings = (
        f"If the task {name} is in {expected}, move it to {target}. Otherwise leave it.",
        f"Check {name}: should it be in {expected}, put it into {target}.",
        f"Move {name} to {target}, but only if it is in {expected} at the moment.",
    )
    calls = [update_call(task, "list_name", target)] if task["list_name"] == expected else []
    return Draft(phrasings, calls, [lookup], 1)


def assign_to_less_busy(draw: OfficeDraw, desk: Desk) -> Draft | None:
    one = assignee(draw, desk)
    other = desk.person(draw, [email for email in desk.tasks_of if one is None or email != one.email])
    list_name, board, due, name = draw.pick(LISTS[:3]), draw.pick(BOARDS), workday(draw), task_name(draw)
    if one is None or other is None:
        return None
    loads = [sum(task["list_name"] == list_name for task in desk.tasks_of[person.email]) for person in (one, other)]
    if loads[0] == loads[1]:
        return None
    chosen, when = one if loads[0] < loads[1] else other, day_text(draw, due)
    phrasings = (
        f"Who has fewer tasks in {list_name}, {one.name} or {other.name}? Create the {board} task '{name}' in Backlog for that person, due {when}.",
        f"Add '{name}' to the Backlog of the {board} board, due {when}, for {one.name} or {other.name}, whichever has fewer tasks in {list_name}.",
        f"Compare how many {list_name} tasks {one.name} and {other.name} have, and give the new task '{name}' ({board} board, Backlog, due {when}) to the one with fewer.",
    )
    lookups = [call for person in (one, other) for call in (person.lookup, search(assigned_to_email=person.email, list_name=list_name))]  # fmt: skip
    return Draft(phrasings, [create_call(name, chosen, due, board)], lookups, 1)


def create_if_few(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, list_name, beside = assignee(draw, desk), draw.pick(LISTS[:3]), draw.between(-1, 2)
    name, board, due = task_name(draw), draw.pick(BOARDS), workday(draw)
    if person is None:
        return None
    load, when = sum(task["list_name"] == list_name for task in desk.tasks_of[person.email]), day_text(draw, due)
    limit = max(1, load + beside)
    phrasings = (
        f"If {person.name} has fewer than {limit} tasks in {list_name}, create '{name}' for them in Backlog on the {board} board, due {when}.",
        f"Count {person.name}'s tasks in {list_name}. Less than {limit}? Then add '{name}' ({board}, Backlog, due {when}) for {person.name}; if not, add nothing.",
        f"{person.name} may get the Backlog task '{name}' on the {board} board, due {when}, only while there are fewer than {limit} of their tasks in {list_name}.",
    )
    calls = [create_call(name, person, due, board)] if load < limit else []
    return Draft(phrasings, calls, [person.lookup, search(assigned_to_email=person.email, list_name=list_name)], 1)


KINDS: Sequence = (
    *(create, move, reassign, delete, set_due, postpone, rename, change_board, move_all, delete_overdue, hand_over_day),
    *(start_next, finish_if, assign_to_less_busy, create_if_few),
)
HELD_OUT = (start_next,)
