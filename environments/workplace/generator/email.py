"""Kinds of tasks about e-mail."""

from collections.abc import Sequence
from datetime import date, timedelta

from .desk import TODAY, Call, Desk, Draft, Person, Record, day_text, search_mails
from .draw import OfficeDraw
from .words import MESSAGES, SUBJECTS


def send_call(person: Person, subject: str, body: str) -> Call:
    """The call that sends an e-mail."""
    return "email_send_email", {"recipient": person.email, "subject": subject, "body": body}


def reply_call(mail: Record, body: str) -> Call:
    """The call that replies."""
    return "email_reply_email", {"email_id": mail["email_id"], "body": body}


def forward_call(mail: Record, person: Person) -> Call:
    """The call that forwards."""
    return "email_forward_email", {"email_id": mail["email_id"], "recipient": person.email}


def delete_call(mail: Record) -> Call:
    """The call that deletes."""
    return "email_delete_email", {"email_id": mail["email_id"]}


def sent_on(mail: Record) -> date:
    """The day an e-mail was sent."""
    return date.fromisoformat(mail["sent_datetime"][:10])


def writer(draw: OfficeDraw, desk: Desk, least: int = 1) -> tuple[Person, list[Record]] | None:
    """A person with at least `least` e-mails, and those, oldest first. No two of one sender are of the same second."""
    person = desk.person(draw, [email for email, mails in desk.mails_from.items() if len(mails) >= least])
    if person is None:
        return None
    mails = desk.mails_from[person.email]
    return (person, mails) if len({mail["sent_datetime"] for mail in mails}) == len(mails) else None


def titled(draw: OfficeDraw, desk: Desk) -> tuple[Person, Record] | None:
    """An e-mail that sender and subject find: no other by the sender has all the subject's words."""
    found = writer(draw, desk)
    if found is None:
        return None
    person, mails = found
    mail = draw.pick(mails)
    text, words = mail["subject"].lower(), mail["subject"].lower().split()
    hits = [other for other in mails if all(word in f"{other['subject']} {other['body']}".lower() for word in words)]
    plain = "'" not in text and '"' not in text
    return (person, mail) if plain and len(hits) == 1 else None


def send(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, subject, body = desk.person(draw), draw.pick(SUBJECTS), draw.pick(MESSAGES)
    if person is None:
        return None
    phrasings = (
        f"Send an email to {person.name} with the subject '{subject}' and the text '{body}'.",
        f"Email {person.name}: subject '{subject}', body '{body}'.",
        f"Write to {person.name} about '{subject}'. The message is '{body}'.",
        f"{person.name} should get a mail titled '{subject}' that says '{body}'.",
    )
    return Draft(phrasings, [send_call(person, subject, body)], [person.lookup])


def send_several(draw: OfficeDraw, desk: Desk) -> Draft | None:
    people, subject, body = desk.others(draw, draw.pick((2, 3))), draw.pick(SUBJECTS), draw.pick(MESSAGES)
    if len(people) < 2:
        return None
    names = ", ".join(person.name for person in people[:-1]) + f" and {people[-1].name}"
    phrasings = (
        f"Send {names} an email each: subject '{subject}', text '{body}'.",
        f"{names} all need to know: '{body}'. Email every one of them under the subject '{subject}'.",
        f"Write separate mails to {names}, titled '{subject}', with the body '{body}'.",
    )
    return Draft(phrasings, [send_call(person, subject, body) for person in people], [p.lookup for p in people])


def reply_latest(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, body = writer(draw, desk), draw.pick(MESSAGES)
    if found is None:
        return None
    person, mails = found
    phrasings = (
        f"Reply to the latest email from {person.name} with '{body}'.",
        f"Answer {person.name}'s most recent email: '{body}'.",
        f"Tell {person.name} '{body}' in reply to the last mail they sent me.",
        f"The newest mail by {person.name} needs a reply. Say '{body}'.",
    )
    return Draft(phrasings, [reply_call(mails[-1], body)], [search_mails(person.local)], 1)


def reply_titled(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, body = titled(draw, desk), draw.pick(MESSAGES)
    if found is None:
        return None
    person, mail = found
    subject = mail["subject"]
    phrasings = (
        f"Reply '{body}' to {person.name}'s email '{subject}'.",
        f"{person.name} wrote to me about '{subject}'. Answer with '{body}'.",
        f"Find the mail '{subject}' by {person.name} and reply: '{body}'.",
    )
    return Draft(phrasings, [reply_call(mail, body)], [search_mails(f"{person.local} {subject}")])


def forward_latest(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = writer(draw, desk)
    if found is None:
        return None
    person, mails = found
    others = desk.others(draw, 1, person)
    if not others:
        return None
    phrasings = (
        f"Forward the latest email from {person.name} to {others[0].name}.",
        f"{others[0].name} should see the most recent mail I got from {person.name}. Pass it on.",
        f"Send {person.name}'s last email on to {others[0].name}.",
    )
    return Draft(phrasings, [forward_call(mails[-1], others[0])], [search_mails(person.local), others[0].lookup], 1)


def forward_titled(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = titled(draw, desk)
    if found is None:
        return None
    (person, mail), others = found, desk.others(draw, draw.pick((1, 2)), found[0])
    if not others:
        return None
    names, subject = " and ".join(other.name for other in others), mail["subject"]
    phrasings = (
        f"Forward the email '{subject}' from {person.name} to {names}.",
        f"Pass {person.name}'s mail about '{subject}' on to {names}.",
        f"{names} asked for the mail '{subject}' that {person.name} wrote. Forward it.",
    )
    lookups = [search_mails(f"{person.local} {subject}"), *(other.lookup for other in others)]
    return Draft(phrasings, [forward_call(mail, other) for other in others], lookups)


def delete_latest(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = writer(draw, desk)
    if found is None:
        return None
    person, mails = found
    phrasings = (
        f"Delete the latest email from {person.name}.",
        f"Get rid of the last mail {person.name} sent me.",
        f"{person.name}'s most recent email can be deleted.",
    )
    return Draft(phrasings, [delete_call(mails[-1])], [search_mails(person.local)], 1)


def delete_oldest(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = writer(draw, desk, 2)
    if found is None:
        return None
    person, mails = found
    phrasings = (
        f"Delete the oldest email from {person.name}.",
        f"The first mail {person.name} ever sent me can go. Delete it.",
        f"Remove the earliest email by {person.name} from my inbox.",
    )
    lookups = [search_mails(person.local), search_mails(person.local, page=1000)]
    return Draft(phrasings, [delete_call(mails[0])], lookups, 1)


def delete_titled(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = titled(draw, desk)
    if found is None:
        return None
    person, mail = found
    subject = mail["subject"]
    phrasings = (
        f"Delete {person.name}'s email '{subject}'.",
        f"I no longer need the mail '{subject}' from {person.name}. Delete it.",
        f"Remove the email titled '{subject}' that {person.name} sent.",
    )
    return Draft(phrasings, [delete_call(mail)], [search_mails(f"{person.local} {subject}")])


def _recent(draw: OfficeDraw, desk: Desk, most: int) -> tuple[Person, int, list[Record]] | None:
    """A person, a range of days, and the e-mails written then: at most `most`, possibly none."""
    found, days = writer(draw, desk), draw.pick((2, 3, 4, 5, 7, 10))
    if found is None:
        return None
    person, mails = found
    recent = [mail for mail in mails if sent_on(mail) >= TODAY - timedelta(days=days)]
    return (person, days, recent) if len(recent) <= most else None


def delete_recent(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = _recent(draw, desk, 4)
    if found is None:
        return None
    person, days, recent = found
    since = TODAY - timedelta(days=days)
    when = day_text(draw, since)
    phrasings = (
        f"Delete every email {person.name} sent me since {when}, that day included.",
        f"All mails from {person.name} from {when} on can be deleted.",
        f"Remove the emails by {person.name} that came on {when} or later.",
    )
    return Draft(phrasings, [delete_call(mail) for mail in recent], [search_mails(person.local, since)], 1)


def forward_recent(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = _recent(draw, desk, 3)
    if found is None:
        return None
    person, days, recent = found
    since, others = TODAY - timedelta(days=days), desk.others(draw, 1, person)
    if not others:
        return None
    when = day_text(draw, since)
    phrasings = (
        f"Forward all emails that {person.name} sent me since {when} (that day included) to {others[0].name}, oldest first.",
        f"{others[0].name} needs everything {person.name} wrote me from {when} on: forward the mails, starting with the oldest.",
        f"Pass on to {others[0].name}, in the order they came, the emails by {person.name} of {when} and later.",
    )
    lookups = [search_mails(person.local, since), others[0].lookup]
    return Draft(phrasings, [forward_call(mail, others[0]) for mail in recent], lookups, 1)


def remind_if_silent(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, subject, body = _recent(draw, desk, 1000), draw.pick(SUBJECTS), draw.pick(MESSAGES)
    if found is None:
        return None
    person, days, recent = found
    since = TODAY - timedelta(days=days)
    when = day_text(draw, since)
    phrasings = (
        f"If {person.name} has not emailed me since {when} (that day included), send them '{body}' under the subject '{subject}'.",
        f"Has {person.name} written to me on {when} or later? If not, email them: subject '{subject}', text '{body}'.",
        f"Unless there is a mail from {person.name} from {when} on, write to them with the subject '{subject}' and the body '{body}'.",
    )
    calls = [] if recent else [send_call(person, subject, body)]
    return Draft(phrasings, calls, [search_mails(person.local, since), person.lookup], 1)


def reply_if_recent(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, body = _recent(draw, desk, 1000), draw.pick(MESSAGES)
    if found is None:
        return None
    person, days, recent = found
    since = TODAY - timedelta(days=days)
    when = day_text(draw, since)
    phrasings = (
        f"If {person.name} has written to me since {when}, that day included, reply '{body}' to the latest of those mails.",
        f"Answer {person.name}'s newest email with '{body}', but only if it came on {when} or later.",
        f"Look whether {person.name} sent something from {when} on. If so, reply to the last one: '{body}'. If not, do nothing.",
    )
    calls = [reply_call(recent[-1], body)] if recent else []
    return Draft(phrasings, calls, [search_mails(person.local, since)], 2)


def reply_and_delete(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, body = titled(draw, desk), draw.pick(MESSAGES)
    if found is None:
        return None
    person, mail = found
    subject = mail["subject"]
    phrasings = (
        f"Reply '{body}' to {person.name}'s mail '{subject}' and then delete that mail.",
        f"Answer the email '{subject}' by {person.name} with '{body}'; afterwards remove it from the inbox.",
        f"Once you have replied '{body}' to '{subject}' from {person.name}, delete the original.",
    )
    return Draft(phrasings, [reply_call(mail, body), delete_call(mail)], [search_mails(f"{person.local} {subject}")])


KINDS: Sequence = (
    *(send, send_several, reply_latest, reply_titled, forward_latest, forward_titled, delete_latest, delete_oldest),
    *(delete_titled, delete_recent, forward_recent, remind_if_silent, reply_if_recent, reply_and_delete),
)
HELD_OUT = (reply_and_delete,)
