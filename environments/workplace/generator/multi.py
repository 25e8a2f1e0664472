"""Kinds of tasks across domains: data of one decides the calls in another."""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

from . import analytics, calendar, calendar_changes, customers, email, projects
from .desk import (
    NOW,
    TODAY,
    Desk,
    Draft,
    day_text,
    meeting_time,
    search_events,
    search_mails,
    start_of,
    time_text,
    workday,
)
from .draw import OfficeDraw
from .words import BOARDS, LISTS, MESSAGES, PRODUCTS, STATUSES, SUBJECTS

_LENGTHS = (30, 45, 60)


def reply_and_meet(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, body, name = email.writer(draw, desk), draw.pick(MESSAGES), calendar_changes.event_name(draw)
    if found is None:
        return None
    (person, mails), day, minutes = found, workday(draw), draw.pick(_LENGTHS)
    start = meeting_time(draw, day, minutes)
    when, at = day_text(draw, day), time_text(draw, start)
    phrasings = (
        f"Reply '{body}' to the latest email from {person.name}, and schedule '{name}' with them on {when} at {at} for {minutes} minutes.",
        f"Answer {person.name}'s most recent mail with '{body}'. Then put a {minutes} minute meeting '{name}' with {person.name} into my calendar: {when}, {at}.",
        f"Book {minutes} minutes with {person.name} at {at} on {when} ('{name}') and tell them '{body}' in reply to their newest email.",
    )
    calls = [email.reply_call(mails[-1], body), calendar.create_call(name, person, start, minutes)]
    return Draft(phrasings, calls, [search_mails(person.local), person.lookup], 1)


def cancel_and_tell(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, subject, body = calendar_changes.coming_with(draw, desk), draw.pick(SUBJECTS), draw.pick(MESSAGES)
    if found is None:
        return None
    person, events = found
    phrasings = (
        f"Cancel my next meeting with {person.name} and email them: subject '{subject}', text '{body}'.",
        f"Delete the next event I have with {person.name}. Let them know by email, titled '{subject}', saying '{body}'.",
        f"I have to drop the next meeting with {person.name}. Remove it and send {person.name} '{body}' under the subject '{subject}'.",
    )
    calls = [calendar.delete_call(events[0]), email.send_call(person, subject, body)]
    return Draft(phrasings, calls, [search_events(person.local, NOW)], 1)


def meet_and_tell_unless_planned(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, days, minutes = desk.person(draw), draw.pick((4, 7, 10)), draw.pick(_LENGTHS)
    if person is None:
        return None
    day, name, subject, body = (
        workday(draw),
        calendar_changes.event_name(draw),
        draw.pick(SUBJECTS),
        draw.pick(MESSAGES),
    )
    start, until = meeting_time(draw, day, minutes), datetime.combine(TODAY + timedelta(days=days), time(23, 59))
    planned = any(NOW < start_of(event) <= until for event in desk.events_with.get(person.email, ()))
    when, at = day_text(draw, day), time_text(draw, start)
    phrasings = (
        f"If I do not meet {person.name} within the next {days} days, schedule '{name}' ({minutes} minutes) with them for {when} at {at} and email them '{body}' under the subject '{subject}'.",
        f"No event with {person.name} in the coming {days} days? Then create '{name}' on {when}, {at}, {minutes} minutes, and send {person.name} a mail: subject '{subject}', body '{body}'. Otherwise do neither.",
        f"Unless {person.name} is in my calendar in the next {days} days, do two things: book '{name}' on {when} at {at} for {minutes} minutes, and write to {person.name} about '{subject}' with the text '{body}'.",
    )
    calls = (
        [] if planned else [calendar.create_call(name, person, start, minutes), email.send_call(person, subject, body)]
    )
    return Draft(phrasings, calls, [person.lookup, search_events(person.local, NOW, until)], 1)


def warn_if_overdue(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, subject, body = projects.assignee(draw, desk), draw.pick(SUBJECTS), draw.pick(MESSAGES)
    list_name = draw.pick(LISTS[:3])
    if person is None:
        return None
    rows = [task for task in desk.tasks_of[person.email] if task["list_name"] == list_name]
    late = any(task["due_date"] < TODAY.isoformat() for task in rows)
    phrasings = (
        f"If {person.name} has a task in {list_name} that was due before today, email them: subject '{subject}', text '{body}'.",
        f"Check {person.name}'s {list_name} tasks for overdue ones (due before today). Is there any, send {person.name} '{body}' with the subject '{subject}'.",
        f"Send {person.name} an email titled '{subject}' that says '{body}', but only if something in their {list_name} list is overdue.",
    )
    calls = [email.send_call(person, subject, body)] if late else []
    lookups = [person.lookup, projects.search(assigned_to_email=person.email, list_name=list_name)]
    return Draft(phrasings, calls, lookups, 1)


def meet_if_loaded(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, list_name, beside = projects.assignee(draw, desk), draw.pick(LISTS[:3]), draw.between(-2, 1)
    if person is None:
        return None
    day, minutes, name = workday(draw), draw.pick(_LENGTHS), calendar_changes.event_name(draw)
    start, load = (
        meeting_time(draw, day, minutes),
        sum(task["list_name"] == list_name for task in desk.tasks_of[person.email]),
    )
    limit = max(0, load + beside)
    when, at = day_text(draw, day), time_text(draw, start)
    phrasings = (
        f"If {person.name} has more than {limit} tasks in {list_name}, schedule '{name}' with them on {when} at {at} for {minutes} minutes.",
        f"Count {person.name}'s {list_name} tasks. With more than {limit} of them I want to meet: '{name}', {when} at {at}, {minutes} minutes. Otherwise nothing needs to be done.",
        f"Book {person.name} for '{name}' ({when}, {at}, {minutes} minutes) only if over {limit} of their tasks are in {list_name}.",
    )
    calls = [calendar.create_call(name, person, start, minutes)] if load > limit else []
    lookups = [person.lookup, projects.search(assigned_to_email=person.email, list_name=list_name)]
    return Draft(phrasings, calls, lookups, 1)


def hand_over_and_tell(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, person, subject, body = projects.named(draw, desk), projects.assignee(draw, desk), draw.pick(SUBJECTS), draw.pick(MESSAGES)  # fmt: skip
    if found is None or person is None or found[0]["assigned_to_email"] == person.email:
        return None
    task, name, lookup = found
    phrasings = (
        f"Assign the task {name} to {person.name} and email them about it: subject '{subject}', text '{body}'.",
        f"{person.name} takes over {name}. Update the board and send them '{body}' under the subject '{subject}'.",
        f"Give {name} to {person.name}, then write to {person.name}: '{body}', with '{subject}' as the subject.",
    )
    calls = [projects.update_call(task, "assigned_to_email", person.email), email.send_call(person, subject, body)]
    return Draft(phrasings, calls, [lookup, person.lookup])


def tell_assignee(draw: OfficeDraw, desk: Desk) -> Draft | None:
    """The recipient is only in the task."""
    found, subject, body = projects.named(draw, desk), draw.pick(SUBJECTS), draw.pick(MESSAGES)
    person = None if found is None else desk.person(draw, [found[0]["assigned_to_email"]])
    if found is None or person is None:
        return None
    _, name, lookup = found
    phrasings = (
        f"Email whoever is assigned to the task {name}: subject '{subject}', text '{body}'.",
        f"Find out who does {name} and send that person '{body}' under the subject '{subject}'.",
        f"The assignee of {name} should get an email titled '{subject}' with the body '{body}'.",
    )
    return Draft(phrasings, [email.send_call(person, subject, body)], [lookup], 1)


def forward_and_task(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, person = email.writer(draw, desk), projects.assignee(draw, desk)
    if found is None or person is None or found[0] == person:
        return None
    (sender, mails), name, board, due = found, projects.task_name(draw), draw.pick(BOARDS), workday(draw)
    when = day_text(draw, due)
    phrasings = (
        f"Forward {sender.name}'s latest email to {person.name} and create the task '{name}' for {person.name}: {board} board, Backlog, due {when}.",
        f"Pass the newest mail from {sender.name} on to {person.name}, who also gets a new Backlog task '{name}' on the {board} board, due {when}.",
        f"{person.name} will handle what {sender.name} wrote last: forward that mail, and add '{name}' to the Backlog of {board} for {person.name} with the due date {when}.",
    )
    calls = [email.forward_call(mails[-1], person), projects.create_call(name, person, due, board)]
    return Draft(phrasings, calls, [search_mails(sender.local), person.lookup], 1)


def won_customer(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer = customers.named(draw, desk)
    person = None if customer is None else desk.person(draw, [customer["assigned_to_email"]])
    if customer is None or person is None or customer["status"] == "Won":
        return None
    name, subject, body = customer["customer_name"], draw.pick(SUBJECTS), draw.pick(MESSAGES)
    phrasings = (
        f"Set {name} to Won and email the colleague in charge: subject '{subject}', text '{body}'.",
        f"We won the customer {name}. Update the status, and send whoever is assigned to {name} '{body}' under the subject '{subject}'.",
        f"Mark {name} as Won, then write to the person the record is assigned to: '{body}', subject '{subject}'.",
    )
    calls = [customers.update_call(customer, "status", "Won"), email.send_call(person, subject, body)]
    return Draft(phrasings, calls, [customers.search(customer_name=name)], 1)


def customer_meeting(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer, day, minutes = customers.named(draw, desk), workday(draw), draw.pick(_LENGTHS)
    person = None if customer is None else desk.person(draw, [customer["assigned_to_email"]])
    if customer is None or person is None:
        return None
    name, event, start = customer["customer_name"], calendar_changes.event_name(draw), meeting_time(draw, day, minutes)
    when, at = day_text(draw, day), time_text(draw, start)
    phrasings = (
        f"Schedule '{event}' with the colleague who looks after the customer {name}, on {when} at {at} for {minutes} minutes.",
        f"Who is {name} assigned to in the CRM? Book that person for '{event}': {when}, {at}, {minutes} minutes.",
        f"I want to talk about {name} with whoever is in charge of that customer. Create '{event}' on {when} at {at}; it takes {minutes} minutes.",
    )
    return Draft(
        phrasings, [calendar.create_call(event, person, start, minutes)], [customers.search(customer_name=name)], 1
    )


def lead_and_call(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, day, minutes, status = desk.person(draw), workday(draw), draw.pick(_LENGTHS), draw.pick(STATUSES)
    if person is None:
        return None
    name = f"{draw.pick(customers.CLIENT_FIRST)} {draw.pick(customers.CLIENT_LAST)}"
    event, start = calendar_changes.event_name(draw), meeting_time(draw, day, minutes)
    when, at = day_text(draw, day), time_text(draw, start)
    phrasings = (
        f"Add the customer {name} with status {status} for {person.name}, and schedule '{event}' with {person.name} on {when} at {at}, {minutes} minutes.",
        f"{person.name} has a new customer: {name}, {status}. Enter the record and put '{event}' with {person.name} in the calendar ({when}, {at}, {minutes} minutes).",
        f"Book {person.name} for '{event}' at {at} on {when} ({minutes} minutes). Also create the customer record {name}, status {status}, assigned to {person.name}.",
    )
    calls = [customers.add_call(name, person, status), calendar.create_call(event, person, start, minutes)]
    return Draft(phrasings, calls, [person.lookup])


def plot_and_tell(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, person, subject, body = (
        analytics.period(draw, desk),
        desk.person(draw),
        draw.pick(SUBJECTS),
        draw.pick(MESSAGES),
    )
    if over is None or person is None:
        return None
    shape = draw.pick(("bar", "line", "scatter", "histogram"))
    phrasings = (
        f"Make a {shape} plot of total visits {over.text}, and email {person.name}: subject '{subject}', text '{body}'.",
        f"Plot total visits {over.text} as a {shape} chart. Tell {person.name} by email: '{body}', with the subject '{subject}'.",
        f"Two things: a {shape} chart of total visits {over.text}, and a mail to {person.name} titled '{subject}' that says '{body}'.",
    )
    calls = [analytics.plot_call(over, "total_visits", shape), email.send_call(person, subject, body)]
    return Draft(phrasings, calls, [person.lookup])


def task_if_visits_fell(draw: OfficeDraw, desk: Desk) -> Draft | None:
    over, person = analytics.period(draw, desk, 2, 12), projects.assignee(draw, desk)
    if over is None or person is None:
        return None
    counts = list(analytics.visits(desk, over).values())
    name, board, due, shape = projects.task_name(draw), draw.pick(BOARDS), workday(draw), draw.pick(("bar", "line"))
    when, (first, last) = day_text(draw, due), (day_text(draw, over.first), day_text(draw, over.last))
    phrasings = (
        f"If there were fewer visits on {last} than on {first}, make a {shape} plot of total visits {over.text} and create the task '{name}' for {person.name} in Backlog on the {board} board, due {when}.",
        f"Compare the visits of {first} and {last}. Have they gone down? Then plot total visits {over.text} ({shape} chart) and add '{name}' to {person.name}'s Backlog on {board}, due {when}. If not, do nothing.",
        f"Should {last} have had fewer visits than {first}: plot total visits {over.text} as a {shape} chart, and give {person.name} the new Backlog task '{name}' ({board}, due {when}).",
    )
    calls = [analytics.plot_call(over, "total_visits", shape), projects.create_call(name, person, due, board)]
    return Draft(phrasings, calls if counts[-1] < counts[0] else [], [("analytics_total_visits_count", over.bounds), person.lookup], 1)  # fmt: skip


def event_for_task(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, minutes = projects.named(draw, desk), draw.pick(_LENGTHS)
    person = None if found is None else desk.person(draw, [found[0]["assigned_to_email"]])
    if found is None or person is None:
        return None
    task, name, lookup = found
    if task["due_date"] <= TODAY.isoformat() or "(due" in name:
        return None
    event, due = calendar_changes.event_name(draw), date.fromisoformat(task["due_date"])
    start = meeting_time(draw, due, minutes)
    at = time_text(draw, start)
    phrasings = (
        f"On the day the task {name} is due, schedule '{event}' with its assignee at {at} for {minutes} minutes.",
        f"Book whoever does {name} for '{event}': {minutes} minutes, {at}, on the task's due date.",
        f"Create '{event}' with the person assigned to {name}. It starts at {at} on the due date and takes {minutes} minutes.",
    )
    return Draft(phrasings, [calendar.create_call(event, person, start, minutes)], [lookup], 2)


def mail_participants(draw: OfficeDraw, desk: Desk) -> Draft | None:
    days = [day for day, events in desk.events_on.items() if day > TODAY.isoformat() and len(events) <= 3]
    if not days:
        return None
    day, subject, body = draw.pick(days), draw.pick(SUBJECTS), draw.pick(MESSAGES)
    people = [
        desk.person(draw, [address])
        for address in dict.fromkeys(event["participant_email"] for event in desk.events_on[day])
    ]
    if not all(people):
        return None
    when = day_text(draw, date.fromisoformat(day))
    phrasings = (
        f"Email everybody I meet on {when}, each once and in the order of the meetings: subject '{subject}', text '{body}'.",
        f"Send '{body}' (subject '{subject}') to every participant of my events on {when}; the one I meet first comes first, and nobody gets it twice.",
        f"Whoever is in a meeting with me on {when} should get one email titled '{subject}' that reads '{body}'. Go through the day from morning to evening.",
    )
    calls = [email.send_call(person, subject, body) for person in people if person]
    begin = datetime.fromisoformat(day)
    return Draft(phrasings, calls, [search_events(None, begin, begin + timedelta(hours=23, minutes=59))], 1)


def trade_customers_for_task(draw: OfficeDraw, desk: Desk) -> Draft | None:
    """A number of customers decides about a task."""
    person, status, product, beside = (
        customers.owner(draw, desk),
        draw.pick(STATUSES),
        draw.pick(PRODUCTS),
        draw.between(-1, 1),
    )
    if person is None or person.email not in desk.tasks_of:
        return None
    rows = [
        row for row in desk.customers_of[person.email] if (row["status"], row["product_interest"]) == (status, product)
    ]
    limit = max(1, len(rows) + beside)
    name, board, due = projects.task_name(draw), draw.pick(BOARDS), workday(draw)
    when = day_text(draw, due)
    phrasings = (
        f"If {person.name} has at least {limit} {status} customers for {product}, create the task '{name}' for them: {board} board, Backlog, due {when}.",
        f"Count {person.name}'s customers with status {status} and interest in {product}. {limit} or more? Then add '{name}' to {person.name}'s Backlog on {board}, due {when}.",
        f"{person.name} should get the Backlog task '{name}' on the {board} board, due {when}, if {limit} or more of their customers are {status} and want {product}; otherwise not.",
    )
    calls = [projects.create_call(name, person, due, board)] if len(rows) >= limit else []
    lookup = customers.search(assigned_to_email=person.email, status=status, product_interest=product)
    return Draft(phrasings, calls, [person.lookup, lookup], 1)


KINDS: Sequence = (
    *(
        reply_and_meet,
        cancel_and_tell,
        meet_and_tell_unless_planned,
        warn_if_overdue,
        meet_if_loaded,
        hand_over_and_tell,
    ),
    *(
        tell_assignee,
        forward_and_task,
        won_customer,
        customer_meeting,
        lead_and_call,
        plot_and_tell,
        task_if_visits_fell,
    ),
    *(event_for_task, mail_participants, trade_customers_for_task),
)
HELD_OUT = (event_for_task,)
