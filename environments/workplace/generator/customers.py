"""Kinds of tasks about customers."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from .desk import TODAY, Call, Desk, Draft, Person, Record, day_text, workday
from .draw import OfficeDraw
from .words import CLIENT_FIRST, CLIENT_LAST, CONTACTS, PRODUCTS, STATUSES

_PREFIX = "customer_relationship_manager"


def update_call(customer: Record, field: str, value: str) -> Call:
    """The call that changes a customer."""
    return f"{_PREFIX}_update_customer", {"customer_id": customer["customer_id"], "field": field, "new_value": value}


def delete_call(customer: Record) -> Call:
    """The call that deletes a customer."""
    return f"{_PREFIX}_delete_customer", {"customer_id": customer["customer_id"]}


def add_call(name: str, person: Person, status: str, **more: str) -> Call:
    """The call that adds a customer."""
    return f"{_PREFIX}_add_customer", {
        "customer_name": name,
        "assigned_to_email": person.email,
        "status": status,
    } | more


def search(**arguments: Any) -> Call:
    """The call that shows customers."""
    return f"{_PREFIX}_search_customers", arguments | {"page_size": 100}


def owner(draw: OfficeDraw, desk: Desk) -> Person | None:
    """A person of the directory with customers."""
    return desk.person(draw, desk.customers_of)


def named(draw: OfficeDraw, desk: Desk) -> Record | None:
    """A customer that the name finds."""
    customers = desk.own_customers
    return draw.pick(customers) if customers else None


def set_status(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer, status = named(draw, desk), draw.pick(STATUSES)
    if customer is None or customer["status"] == status:
        return None
    name = customer["customer_name"]
    phrasings = (
        f"Set the status of {name} to {status}.",
        f"{name} is now {status}. Update the customer record.",
        f"Change {name}'s status in the CRM to {status}.",
        f"Mark the customer {name} as {status}.",
    )
    return Draft(phrasings, [update_call(customer, "status", status)], [search(customer_name=name)])


def set_product(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer, product = named(draw, desk), draw.pick(PRODUCTS)
    if customer is None or customer["product_interest"] == product:
        return None
    name = customer["customer_name"]
    phrasings = (
        f"{name} is interested in {product} instead. Update the CRM.",
        f"Change the product interest of {name} to {product}.",
        f"The customer {name} wants {product} now; please record that.",
    )
    return Draft(phrasings, [update_call(customer, "product_interest", product)], [search(customer_name=name)])


def reassign(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer, person = named(draw, desk), desk.person(draw)
    if customer is None or person is None or customer["assigned_to_email"] == person.email:
        return None
    name = customer["customer_name"]
    phrasings = (
        f"Assign the customer {name} to {person.name}.",
        f"{person.name} looks after {name} from now on. Change it in the CRM.",
        f"Hand {name} over to {person.name}.",
    )
    lookups = [search(customer_name=name), person.lookup]
    return Draft(phrasings, [update_call(customer, "assigned_to_email", person.email)], lookups)


def delete(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer = named(draw, desk)
    if customer is None:
        return None
    name = customer["customer_name"]
    phrasings = (
        f"Delete the customer {name}.",
        f"{name} asked us to be forgotten. Remove the record from the CRM.",
        f"Take {name} out of our customers.",
    )
    return Draft(phrasings, [delete_call(customer)], [search(customer_name=name)])


def add(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, status, product = desk.person(draw), draw.pick(STATUSES), draw.pick(PRODUCTS)
    if person is None:
        return None
    name = f"{draw.pick(CLIENT_FIRST)} {draw.pick(CLIENT_LAST)}"
    if draw.chance(0.5):
        phrasings = (
            f"Add {name} as a new customer of {person.name}: status {status}, interested in {product}.",
            f"There is a new customer, {name}, in status {status}, who wants {product}. {person.name} is in charge.",
            f"Enter {name} into the CRM (status {status}, product interest {product}) and assign the record to {person.name}.",
        )
        return Draft(phrasings, [add_call(name, person, status, product_interest=product)], [person.lookup])
    phrasings = (
        f"Add {name} as a new customer of {person.name} with status {status}.",
        f"There is a new customer, {name}, in status {status}. {person.name} is in charge.",
        f"Enter {name} into the CRM as {status} and assign the record to {person.name}.",
    )
    return Draft(phrasings, [add_call(name, person, status)], [person.lookup])


def set_notes(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer, note = named(draw, desk), draw.pick(CONTACTS)
    if customer is None or customer["notes"] == note:
        return None
    name = customer["customer_name"]
    phrasings = (
        f"Replace the notes of {name} by '{note}'.",
        f"The notes on the customer {name} should read '{note}', nothing else.",
        f"Write '{note}' into {name}'s notes, in place of what is there.",
    )
    return Draft(phrasings, [update_call(customer, "notes", note)], [search(customer_name=name)])


def set_phone(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer, phone = named(draw, desk), f"555-{draw.between(100, 999)}-{draw.between(1000, 9999)}"
    if customer is None:
        return None
    name = customer["customer_name"]
    phrasings = (
        f"{name}'s phone number is {phone}. Put it into the CRM.",
        f"Set the phone of the customer {name} to {phone}.",
        f"Record {phone} as the number of {name}.",
    )
    return Draft(phrasings, [update_call(customer, "customer_phone", phone)], [search(customer_name=name)])


def set_follow_up(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer, day = named(draw, desk), workday(draw, 1, 30)
    value = f"{day} 23:59:00"
    if customer is None or customer["follow_up_by"] == value:
        return None
    name, when = customer["customer_name"], day_text(draw, day)
    phrasings = (
        f"We should follow up with {name} by {when}, at the end of the day (23:59:00). Update the record.",
        f"Set the follow-up date of {name} to {when}, 23:59:00.",
        f"Change 'follow up by' of the customer {name}: {when} at 23:59:00.",
    )
    return Draft(phrasings, [update_call(customer, "follow_up_by", value)], [search(customer_name=name)])


def _group(draw: OfficeDraw, desk: Desk, most: int) -> tuple[Person, str, str, list[Record], Call] | None:
    """A person's customers of a status and a product, at most `most`, possibly none, and the call that shows them."""
    person = owner(draw, desk)
    if person is None:
        return None
    # Mostly a pair that some customer has: most pairs have none.
    some = draw.pick(desk.customers_of[person.email])
    pair = draw.pick(STATUSES), draw.pick(PRODUCTS)
    status, product = (some["status"], some["product_interest"]) if draw.chance(0.75) else pair
    rows = [
        row for row in desk.customers_of[person.email] if (row["status"], row["product_interest"]) == (status, product)
    ]
    lookup = search(assigned_to_email=person.email, status=status, product_interest=product)
    return (person, status, product, rows, lookup) if len(rows) <= most else None


def promote_group(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found, target = _group(draw, desk, 4), draw.pick(STATUSES)
    if found is None or found[1] == target:
        return None
    person, status, product, rows, lookup = found
    phrasings = (
        f"All customers of {person.name} with status {status} who are interested in {product} are {target} now. Update them.",
        f"Change {person.name}'s {product} customers from {status} to {target}.",
        f"Every {status} of {person.name} for {product} becomes {target}; if there is none, there is nothing to do.",
    )
    return Draft(phrasings, [update_call(row, "status", target) for row in rows], [person.lookup, lookup])


def delete_group(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = _group(draw, desk, 4)
    if found is None:
        return None
    person, status, product, rows, lookup = found
    phrasings = (
        f"Delete all of {person.name}'s customers with status {status} and product interest {product}.",
        f"{person.name} wants to get rid of the {status} customers for {product}. Delete each of them.",
        f"Remove every customer from the CRM that {person.name} has in status {status} for {product}.",
    )
    return Draft(phrasings, [delete_call(row) for row in rows], [person.lookup, lookup])


def hand_over_group(draw: OfficeDraw, desk: Desk) -> Draft | None:
    found = _group(draw, desk, 3)
    if found is None:
        return None
    person, status, product, rows, lookup = found
    others = desk.others(draw, 1, person)
    if not others:
        return None
    other = others[0]
    phrasings = (
        f"Give {person.name}'s {product} customers in status {status} to {other.name}.",
        f"{other.name} takes over all {status} customers of {person.name} who are interested in {product}.",
        f"Reassign, from {person.name} to {other.name}, each customer with status {status} and product interest {product}.",
    )
    calls = [update_call(row, "assigned_to_email", other.email) for row in rows]
    return Draft(phrasings, calls, [person.lookup, lookup, other.lookup])


def promote_if(draw: OfficeDraw, desk: Desk) -> Draft | None:
    customer, (expected, target) = named(draw, desk), draw.sample(STATUSES, 2)
    if customer is None:
        return None
    # An even chance, where the five states would give one in five.
    expected = customer["status"] if draw.chance(0.4) and customer["status"] != target else expected
    name = customer["customer_name"]
    phrasings = (
        f"If {name} is still {expected}, change the status to {target}. Otherwise leave the record alone.",
        f"Check the customer {name}: in case the status is {expected}, make it {target}.",
        f"Set {name} to {target}, but only if the current status is {expected}.",
    )
    calls = [update_call(customer, "status", target)] if customer["status"] == expected else []
    return Draft(phrasings, calls, [search(customer_name=name)], 1)


def longest_silent(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, status, target = owner(draw, desk), draw.pick(STATUSES), draw.pick(STATUSES)
    if person is None or status == target:
        return None
    rows = [row for row in desk.customers_of[person.email] if row["status"] == status]
    rows.sort(key=lambda row: row["last_contact_date"])
    if len(rows) < 2 or rows[0]["last_contact_date"] == rows[1]["last_contact_date"]:
        return None
    phrasings = (
        f"Of {person.name}'s customers with status {status}, set the one we have not contacted for the longest time to {target}.",
        f"Among the {status} customers of {person.name}, find the one with the oldest last contact and change its status to {target}.",
        f"Which {status} customer of {person.name} was contacted least recently? That one is {target} now.",
    )
    lookups = [person.lookup, search(assigned_to_email=person.email, status=status)]
    return Draft(phrasings, [update_call(rows[0], "status", target)], lookups, 1)


def drop_stale(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, status, days = owner(draw, desk), draw.pick(STATUSES), draw.pick((30, 45, 60, 75))
    if person is None:
        return None
    before = TODAY - timedelta(days=days)
    rows = [row for row in desk.customers_of[person.email] if row["status"] == status]
    stale = [row for row in rows if date.fromisoformat(row["last_contact_date"][:10]) < before]
    if len(stale) > 4:
        return None
    when = day_text(draw, before)
    phrasings = (
        f"Delete {person.name}'s {status} customers whom nobody has contacted since {when} (a contact on that day counts).",
        f"Customers of {person.name} in status {status} whose last contact was before {when} should be deleted.",
        f"Remove from the CRM whoever {person.name} has in status {status} and who was last contacted earlier than {when}.",
    )
    lookups = [person.lookup, search(assigned_to_email=person.email, status=status)]
    return Draft(phrasings, [delete_call(row) for row in stale], lookups, 1)


def add_if_few(draw: OfficeDraw, desk: Desk) -> Draft | None:
    person, counted, status, beside = owner(draw, desk), draw.pick(STATUSES), draw.pick(STATUSES), draw.between(-1, 2)
    if person is None:
        return None
    name = f"{draw.pick(CLIENT_FIRST)} {draw.pick(CLIENT_LAST)}"
    load = sum(row["status"] == counted for row in desk.customers_of[person.email])
    limit = max(1, load + beside)
    phrasings = (
        f"If {person.name} has fewer than {limit} customers in status {counted}, add {name} as a new customer of theirs with status {status}.",
        f"Count the {counted} customers of {person.name}. Under {limit}? Then enter {name} as {status} for {person.name}; otherwise nobody is added.",
        f"{name} becomes a customer of {person.name} (status {status}) on one condition: {person.name} has less than {limit} customers with status {counted}.",
    )
    calls = [add_call(name, person, status)] if load < limit else []
    return Draft(phrasings, calls, [person.lookup, search(assigned_to_email=person.email, status=counted)], 1)


KINDS: Sequence = (
    *(set_status, set_product, reassign, delete, add, set_notes, set_phone, set_follow_up, promote_group),
    *(delete_group, hand_over_group, promote_if, longest_silent, drop_stale, add_if_few),
)
HELD_OUT = (longest_silent,)
