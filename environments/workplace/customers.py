"""The tools of the customer relationship manager. Dates compare as texts."""

from collections.abc import Callable
from operator import ge, le
from typing import Any

from .office import Office
from .paging import page_of
from .tables import OfficeTable, contains, is_null, require_length

_STATUSES = ("Qualified", "Won", "Lost", "Lead", "Proposal")
_PRODUCTS = ("Software", "Hardware", "Services", "Consulting", "Training")
_FIELDS = (
    "customer_name", "assigned_to_email", "customer_email", "customer_phone", "last_contact_date", "product_interest",
    "status", "notes", "follow_up_by",
)  # fmt: skip


def search_customers(
    office: Office,
    customer_name: Any = None,
    customer_email: Any = None,
    product_interest: Any = None,
    status: Any = None,
    assigned_to_email: Any = None,
    last_contact_date_min: Any = None,
    last_contact_date_max: Any = None,
    follow_up_by_min: Any = None,
    follow_up_by_max: Any = None,
    page: Any = 1,
    page_size: Any = 5,
) -> Any:
    """Customers that match every given pattern and bound, in table order."""
    patterns = {
        "customer_name": customer_name,
        "customer_email": customer_email,
        "product_interest": product_interest,
        "status": status,
        "assigned_to_email": assigned_to_email,
    }
    bounds = (
        ("last_contact_date", ge, last_contact_date_min),
        ("last_contact_date", le, last_contact_date_max),
        ("follow_up_by", ge, follow_up_by_min),
        ("follow_up_by", le, follow_up_by_max),
    )
    if not any(patterns.values()) and not any(bound for _, _, bound in bounds):
        return "No search parameters provided. Please provide at least one parameter."
    customers = office.customers
    for column, pattern in patterns.items():
        if pattern:
            customers = customers.where(contains(customers.cells(column), pattern))
    for column, compare, bound in bounds:
        if bound:
            customers = _within(customers, column, compare, bound)
    return page_of("customers", customers.records(), page, page_size) or "No customers found."


def update_customer(office: Office, customer_id: Any = None, field: Any = None, new_value: Any = None) -> Any:
    """Changes one field of a customer."""
    if not customer_id or not field or not new_value:
        return "Customer ID, field, or new value not provided."
    if field == "status" and new_value not in _STATUSES:
        return f"Status not valid. Please choose from: {_quoted(_STATUSES)}"
    if field == "product_interest" and new_value not in _PRODUCTS:
        return f"Product interest not valid. Please choose from: {_quoted(_PRODUCTS)}"
    if field in ("customer_email", "assigned_to_email"):
        new_value = new_value.lower()
    if not office.customers.has("customer_id", customer_id):
        return "Customer not found."
    if field not in office.customers.position:
        return f"Field not valid. Please choose from: {_quoted(_FIELDS)}"
    office.customers = office.customers.with_cell("customer_id", customer_id, field, new_value)
    return "Customer updated successfully."


def add_customer(
    office: Office,
    customer_name: Any = None,
    assigned_to_email: Any = None,
    status: Any = None,
    customer_email: Any = None,
    customer_phone: Any = None,
    last_contact_date: Any = None,
    product_interest: Any = None,
    notes: Any = "",
    follow_up_by: Any = None,
) -> Any:
    """Adds a customer; neither status nor product is checked. Returns its id."""
    if not all([customer_name, assigned_to_email, status]):
        return "Please provide all required fields: customer_name, assigned_to_email, status."
    record = {
        "assigned_to_email": assigned_to_email.lower(),
        "customer_email": customer_email.lower() if customer_email else customer_email,
        "customer_id": str(office.customers.next_id("customer_id")).zfill(8),
        "customer_name": customer_name,
        "customer_phone": customer_phone,
        "last_contact_date": last_contact_date,
        "product_interest": product_interest,
        "status": status,
        "follow_up_by": follow_up_by,
        "notes": notes,
    }
    office.customers = office.customers.with_row(record, relabel=True)
    return record["customer_id"]


def delete_customer(office: Office, customer_id: Any = None) -> Any:
    """Removes a customer."""
    if not customer_id:
        return "Customer ID not provided."
    if not office.customers.has("customer_id", customer_id):
        return "Customer not found."
    office.customers = office.customers.without("customer_id", customer_id)
    return "Customer deleted successfully."


def _within(customers: OfficeTable, column: str, compare: Callable[[Any, Any], bool], bound: Any) -> OfficeTable:
    require_length(bound, len(customers.rows))
    return customers.where([not is_null(cell) and compare(cell, bound) for cell in customers.cells(column)])


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)
