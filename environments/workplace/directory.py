"""The company directory's tool."""

from typing import Any

from .office import Office
from .tables import contains


def find_email_address(office: Office, name: Any = "") -> Any:
    """The addresses that match `name` as a regular expression, case ignored."""
    if name == "":
        return "Name not provided."
    addresses = office.directory.cells("email_address")
    return [address for address, hit in zip(addresses, contains(addresses, name.lower()), strict=True) if hit]
