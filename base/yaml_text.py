"""YAML from people: every error is a ConfigError, and aliases cannot make gigabytes of a few lines."""

from pathlib import Path
from typing import Any

from .errors import ConfigError, one_line

_MOST_BYTES = 16 << 20
_MOST_VALUES = 200_000


def load_yaml(text: str, what: str) -> Any:
    """The value of a YAML text. `what` begins the sentence of an error: `recipe.yaml`, `The value of sft.seed`.

    Raises ConfigError for text that is not YAML, holds a value that its tag does not allow (`2001-13-45`), or expands to too many values.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except Exception as error:  # the constructors of dates, integers and the rest raise what they like
        raise ConfigError(f"{what} is not YAML: {one_line(error)}.", "Correct it, or quote the value.") from error
    _refuse_expansion(value, what)
    return value


def load_yaml_file(path: Path) -> Any:
    """The value of a YAML file. Raises ConfigError as `load_yaml`, and for a file that cannot be read."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than {_MOST_BYTES >> 20} MB.", "Name a recipe.")
        return load_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}.", "Name a file of UTF-8 text.") from error


def _refuse_expansion(value: Any, what: str) -> None:
    # An alias is the same object again: counted each time, as everything that walks the value meets it each time.
    waiting, seen = [value], 0
    while waiting:
        one = waiting.pop()
        inside = (
            [*one.keys(), *one.values()]
            if isinstance(one, dict)
            else one
            if isinstance(one, (list, set, tuple))
            else ()
        )
        waiting.extend(inside)
        seen += 1
        if seen + len(waiting) > _MOST_VALUES:
            raise ConfigError(f"{what} expands to more than {_MOST_VALUES:,} values.", "Write it without aliases that repeat aliases.")  # fmt: skip
