"""Refusing settings that hold a key or password: settings are stored with the run and shown in reports."""

from collections.abc import Mapping
from typing import Any

from .errors import ConfigError
from .redaction import IN_QUERY, IN_URL, SECRET_NAME


def refuse_secrets(value: Any, name: str) -> None:
    """Raises ConfigError for a setting that holds a password or key: as a URL's part, or under a name for one in a mapping.

    Settings are stored with the run and shown in reports. `name` is the setting's.
    """
    if isinstance(value, str):
        refuse_in_url(value, f"The setting {name}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str) and inner and SECRET_NAME.fullmatch(str(key)):
                raise ConfigError(f"The setting {name}.{key} holds a secret, which would be stored.", "Put it into an environment variable, and name that where a setting ends in _env.")  # fmt: skip
            refuse_secrets(inner, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            refuse_secrets(inner, name)


def refuse_in_url(text: str, what: str) -> None:
    """Raises ConfigError for a URL with a user name, a password or a key in it. `what` begins the sentence."""
    if IN_URL.search(text) or IN_QUERY.search(text):
        raise ConfigError(f"{what} contains a user name or password, which would be stored.", "Remove them from the URL, and put the key into an environment variable.")  # fmt: skip
