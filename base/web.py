"""What every HTTP server here refuses before it looks at a request: names and pages that are not its own."""

import ipaddress
import socket
from collections.abc import Iterable, Mapping


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names(hosts: Iterable[str] = ()) -> frozenset[str]:
    """The names by which a server of this machine is reached, lower case; `hosts` are further ones."""
    found = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), *(host.lower() for host in hosts)}
    return frozenset(found - {""})


def foreign(headers: Mapping[str, str], names: Iterable[str] | None) -> str | None:
    """Why a request comes from a page that is not the server's own; None when it does not.

    A site that points its own name here (DNS rebinding) shows in `Host`; an address cannot be pointed. With `names` None any host is taken: a
    server with a key needs no such check, since no page has the key.
    """
    given = headers.get("Host", "")
    host = host_name(given)
    if names is not None and host not in names and not _is_address(host):
        return f"The host {host[:100]!r} is not a name of this server."
    origin = headers.get("Origin")
    if origin is not None and origin.split("://", 1)[-1] != given:
        return "The request comes from a page of another site."
    if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        return "The request comes from a page of another site."
    return None


def host_name(host: str) -> str:
    """The host without its port, lower case, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
