"""The tasks: nine kinds, three a domain, with one, two and three calls.

Every value that a call must carry is quoted in the request as it is in JSON, so that the same tokens are copied; ids are known only
to the lookups. The four digits of an id differ, because a tiny model copies a number by looking for the digit it wrote last.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...store.messages import Message
from ...store.task import Task
from .office import State, tool_schemas

NAME = "workplace-mini"
PEOPLE = (
    *("anna", "boris", "carla", "david", "elena", "farid", "greta", "henry", "irene", "jonas", "karin", "lucas"),
    *("maria", "nadia", "oscar", "paula", "quinn", "raj", "sofia", "tomas", "ursula", "victor", "wanda", "yusuf"),
)
TOPICS = (
    *("budget", "launch", "hiring", "website", "invoice", "travel", "security", "design", "payroll", "contract"),
    *("training", "survey", "backup", "office", "product", "partner", "quarter", "roadmap", "audit", "campaign"),
)
MATTERS = (
    *("review", "report", "meeting", "update", "plan", "draft", "summary", "list", "notes", "proposal"),
    *("question", "schedule", "checklist", "workshop", "demo", "briefing"),
)
BODIES = (
    *("see you tomorrow", "thank you", "please call me", "looks good", "not yet ready", "all is done"),
    *("let us talk", "on my way", "sorry for the delay", "more details soon", "happy to help", "please wait"),
)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")
TIMES = ("9am", "10am", "11am", "1pm", "2pm", "3pm", "4pm", "5pm")
COLUMNS = ("backlog", "ready", "doing", "checking", "finished")
ROWS = 4

Call = tuple[str, dict[str, str]]
Kind = Callable[[random.Random, State], tuple[str, list[Call]]]


def _title(rng: random.Random) -> str:
    return f"{rng.choice(TOPICS)} {rng.choice(MATTERS)}"


def _titles(rng: random.Random, count: int) -> list[str]:
    """Different titles, so that a search for one finds one row."""
    titles: list[str] = []
    while len(titles) < count:
        title = _title(rng)
        if title not in titles:
            titles.append(title)
    return titles


def _ids(rng: random.Random, count: int) -> list[str]:
    ids: list[str] = []
    while len(ids) < count:
        digits = rng.sample("0123456789", 4)
        number = "".join(digits)
        if digits[0] not in "09" and number not in ids:
            ids.append(number)
    return ids


def _other(rng: random.Random, values: Sequence[str], current: str) -> str:
    """A value that differs, so that leaving the call out leaves the task undone."""
    return rng.choice([value for value in values if value != current])


def email_state(rng: random.Random) -> State:
    """An inbox of four emails."""
    rows = zip(_ids(rng, ROWS), rng.sample(PEOPLE, ROWS), _titles(rng, ROWS), strict=True)
    return {"inbox": [{"email_id": i, "sender": who, "subject": title} for i, who, title in rows], "outbox": []}


def calendar_state(rng: random.Random) -> State:
    """Four events of a week."""
    rows = zip(_ids(rng, ROWS), _titles(rng, ROWS), rng.sample(PEOPLE, ROWS), strict=True)
    return {
        "events": [
            {"event_id": i, "name": title, "participant": who, "day": rng.choice(DAYS), "time": rng.choice(TIMES)}
            for i, title, who in rows
        ]
    }


def projects_state(rng: random.Random) -> State:
    """Four tasks on a board."""
    rows = zip(_ids(rng, ROWS), _titles(rng, ROWS), rng.sample(PEOPLE, ROWS), strict=True)
    return {
        "tasks": [
            {"task_id": i, "title": title, "assignee": who, "column": rng.choice(COLUMNS)} for i, title, who in rows
        ]
    }


def send_email(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    who, title, body = rng.choice(PEOPLE), _title(rng), rng.choice(BODIES)
    request = rng.choice(
        (
            f'Send an email to "{who}" with subject "{title}" and body "{body}".',
            f'Write to "{who}" about "{title}" and say "{body}".',
        )
    )
    return request, [("email_send", {"recipient": who, "subject": title, "body": body})]


def reply_email(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    email, body = rng.choice(state["inbox"]), rng.choice(BODIES)
    title = email["subject"]
    request = rng.choice(
        (
            f'Reply to the email about "{title}" with "{body}".',
            f'Find the email "{title}" and answer "{body}".',
        )
    )
    reply = ("email_reply", {"email_id": email["email_id"], "body": body})
    return request, [("email_search", {"query": title}), reply]


def forward_email(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    email, who = rng.choice(state["inbox"]), rng.choice(PEOPLE)
    title = email["subject"]
    request = rng.choice(
        (
            f'Forward the email about "{title}" to "{who}" and then delete it.',
            f'Pass the email "{title}" on to "{who}" and remove it from the inbox.',
        )
    )
    return request, [
        ("email_search", {"query": title}),
        ("email_forward", {"email_id": email["email_id"], "recipient": who}),
        ("email_delete", {"email_id": email["email_id"]}),
    ]


def create_event(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    title, who, day, time = _title(rng), rng.choice(PEOPLE), rng.choice(DAYS), rng.choice(TIMES)
    request = rng.choice(
        (
            f'Plan a "{title}" with "{who}" on "{day}" at "{time}".',
            f'Put the event "{title}" with "{who}" in the calendar for "{day}" at "{time}".',
        )
    )
    return request, [("calendar_create", {"name": title, "participant": who, "day": day, "time": time})]


def cancel_event(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    event = rng.choice(state["events"])
    title, who = event["name"], event["participant"]
    request = rng.choice(
        (
            f'Cancel the event "{title}" with "{who}".',
            f'Take the event "{title}" with "{who}" out of the calendar.',
        )
    )
    return request, [("calendar_search", {"query": title}), ("calendar_delete", {"event_id": event["event_id"]})]


def move_event(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    event, time = rng.choice(state["events"]), rng.choice(TIMES)
    title, who, day = event["name"], _other(rng, PEOPLE, event["participant"]), _other(rng, DAYS, event["day"])
    request = rng.choice(
        (
            f'Move the event "{title}" to "{day}" at "{time}" and invite "{who}".',
            f'Shift "{title}" to "{day}" at "{time}" and then invite "{who}" to it.',
        )
    )
    return request, [
        ("calendar_search", {"query": title}),
        ("calendar_move", {"event_id": event["event_id"], "day": day, "time": time}),
        ("calendar_invite", {"event_id": event["event_id"], "participant": who}),
    ]


def create_task(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    title, who, column = _title(rng), rng.choice(PEOPLE), rng.choice(COLUMNS)
    request = rng.choice(
        (
            f'Create a task "{title}" for "{who}" in column "{column}".',
            f'Add the task "{title}" to the board, assigned to "{who}", in "{column}".',
        )
    )
    return request, [("project_create", {"title": title, "assignee": who, "column": column})]


def assign_task(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    task = rng.choice(state["tasks"])
    title, who = task["title"], _other(rng, PEOPLE, task["assignee"])
    request = rng.choice((f'Assign the task "{title}" to "{who}".', f'Let "{who}" take over the task "{title}".'))
    assign = ("project_assign", {"task_id": task["task_id"], "assignee": who})
    return request, [("project_search", {"query": title}), assign]


def hand_over_task(rng: random.Random, state: State) -> tuple[str, list[Call]]:
    task = rng.choice(state["tasks"])
    title, who = task["title"], _other(rng, PEOPLE, task["assignee"])
    column = _other(rng, COLUMNS, task["column"])
    request = rng.choice(
        (
            f'Assign the task "{title}" to "{who}" and move it to "{column}".',
            f'Hand the task "{title}" over to "{who}" and put it in "{column}".',
        )
    )
    return request, [
        ("project_search", {"query": title}),
        ("project_assign", {"task_id": task["task_id"], "assignee": who}),
        ("project_move", {"task_id": task["task_id"], "column": column}),
    ]


KINDS: tuple[tuple[str, Callable[[random.Random], State], Kind], ...] = (
    ("email", email_state, send_email),
    ("email", email_state, reply_email),
    ("email", email_state, forward_email),
    ("calendar", calendar_state, create_event),
    ("calendar", calendar_state, cancel_event),
    ("calendar", calendar_state, move_event),
    ("projects", projects_state, create_task),
    ("projects", projects_state, assign_task),
    ("projects", projects_state, hand_over_task),
)


def split_of(request: str) -> str:
    """Which split a request belongs to: a tenth test, a fifth validation, the rest train.

    Decided by the request's own hash, so that splits are disjoint whatever the seeds and sizes."""
    bucket = hashlib.sha256(request.encode()).digest()[0] % 10
    return "test" if bucket == 0 else "validation" if bucket <= 2 else "train"


def generate_tasks(seed: int, split: str, count: int) -> Iterator[Task]:
    """`count` tasks with different requests, the nine kinds in turn; the first of a longer list are those of a shorter one."""
    rng = random.Random(f"{NAME}/{seed}/{split}")
    seen: set[str] = set()
    for index in range(count):
        domain, make_state, make_request = KINDS[index % len(KINDS)]
        while True:
            state = make_state(rng)
            request, calls = make_request(rng, state)
            if split_of(request) == split and request not in seen:
                break
        seen.add(request)
        yield Task(
            environment=NAME,
            messages=(Message("user", request),),
            tools=tool_schemas(domain),
            ground_truth=[_ground_truth(call) for call in calls],
            state=state,
            split=split,
            category=make_request.__name__,
            difficulty=float(len(calls)),
            source_key=f"{seed}/{split}/{index}",
        )


def _ground_truth(call: Call) -> dict[str, Any]:
    name, arguments = call
    return {"name": name, "arguments": json.dumps(arguments)}
