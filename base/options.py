"""A configuration model's options: what its flags on the command line and its keywords in Python are."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from .config import Flag, Flags, Panel, default_of, mark_of, section_of


@dataclass(frozen=True)
class Option:
    """A setting that a command takes as a flag and a Python method as a keyword.

    Attributes:
        name: The keyword (`num_repeats`).
        key: The setting (`policy.generation.temperature`).
        annotation: The type of the field.
        default: The field's default in JSON; None when it is required or has none.
        help: The field's description.
    """

    name: str
    key: str
    annotation: Any
    required: bool
    default: Any
    help: str
    panel: Panel
    metavar: str | None = None
    positional: bool = False

    @property
    def flag(self) -> str:
        """As it is written on the command line (`--num-repeats`)."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def kind(self) -> type:
        """The type of one value: bool, int, float or str."""
        return _kind(self.annotation)

    @property
    def multiple(self) -> bool:
        """Whether it may be given several times."""
        return any(get_origin(one) is list for one in _alternatives(self.annotation))


def options_of(model: type[BaseModel]) -> list[Option]:
    """The options of a command, in the order of the model's fields."""
    return list(_options(model, "", None))


def option_types(model: type[BaseModel]) -> dict[str, Any]:
    """Keyword → type, for every keyword that the command's Python method takes: its options, and whole sections and settings by field name."""
    fields = {name: field.annotation for name, field in model.model_fields.items()}
    return fields | {option.name: option.annotation for option in options_of(model)}


def _options(model: type[BaseModel], prefix: str, only: tuple[str, ...] | None) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        if only is not None and name not in only:
            continue
        key, mark, section = f"{prefix}{name}", mark_of(field, Flag), section_of(field.annotation)
        if mark is not None:
            default = default_of(field)
            help = " ".join((field.description or "").split())
            yield Option(
                mark.name or name, key, field.annotation, field.is_required(), default, help, mark.panel, mark.metavar,
                mark.positional,
            )  # fmt: skip
        elif section is not None:
            chosen = mark_of(field, Flags)
            yield from _options(section, f"{key}.", chosen.fields if chosen is not None else None)


def _kind(annotation: Any) -> type:
    for one in _alternatives(annotation):
        if one in (bool, int, float, str):
            return one
        if get_origin(one) is list:
            return _kind(get_args(one)[0])
    return str


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union without None; `str` for a set of literals."""
    given = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [str if get_origin(one) is Literal else one for one in given if one is not NoneType]
