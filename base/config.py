"""Settings: sections of a configuration, what a field of one is besides its value, and which settings a run differs in from the defaults.

A command has one model (a `Section`), made of sections that commands share:

    policies/config.py      policy: model, engine, chat template, sampling, endpoint
    environments/config.py  environment: name, tables, tasks, split, mixture
    collect/config.py       limits
    RunSettings             run
    train/                  optimizer, lora, loss, checkpointing, logger

Its flags on the command line, its keywords in Python and its recipes follow from the model; see `options` and `recipes`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator
from pydantic.fields import FieldInfo

from .errors import ConfigError
from .secrets import refuse_secrets

Panel = Literal["Input", "Policy", "Sampling", "Limits", "Server", "Data", "Training", "Run", "Output"]
"""Headings of `--help`."""


@dataclass(frozen=True)
class Flag:
    """Marks a setting that is an option of the command line and a keyword of the Python method; other settings are set by recipe or override.

    Attributes:
        panel: The heading of `--help` that it is listed under.
        name: The keyword (`num_repeats`), which is also the flag (`--num-repeats`); None is the field's name.
        metavar: What the value is called in `--help`.
        positional: An argument instead of an option.
    """

    panel: Panel
    name: str | None = None
    metavar: str | None = None
    positional: bool = False


class Flags:
    """Marks a section of which only the fields named have flags in this command."""

    def __init__(self, *fields: str) -> None:
        self.fields = fields


class Free:
    """Marks a setting, or a section of settings, that may differ when a run is resumed: it does not decide the result."""


class Content:
    """Marks a setting that names a file whose content decides the result: the run keeps its hash.

    Attributes:
        hash_of: Gives the hash of the setting's value; None when the value names no file.
        alone: Values with equal hashes are equal, wherever the files are.
    """

    def __init__(self, hash_of: "Callable[[str], str | None] | None" = None, alone: bool = False) -> None:
        self.hash_of = hash_of or file_hash
        self.alone = alone


FREE = Free()
_Mark = TypeVar("_Mark")
_MARKS = (Flag, Flags, Free, Content)


class Section(BaseModel):
    """A part of a configuration. An unknown key is an error, and the docstring after a field is its description.

    A field that a subclass defines again, with another type or default, keeps the description and the marks that it does not give anew.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _hold_no_secret(self) -> Self:
        for name, field in type(self).model_fields.items():
            if not field.exclude:  # what is excluded is stored and shown nowhere
                refuse_secrets(getattr(self, name), name)
        return self

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for base in cls.__mro__[1:]:
            for name, inherited in getattr(base, "__pydantic_fields__", {}).items():
                field = cls.__pydantic_fields__.get(name)
                if field is not None and field is not inherited:
                    _inherit(field, inherited)


class RunSettings(Section):
    """Settings of a command that writes a run; a command's model starts with them."""

    run: Annotated[str | None, Flag("Run", metavar="NAME"), FREE] = None
    """Name of the run. A run that exists is resumed. Default: a new name."""


def _inherit(field: FieldInfo, inherited: FieldInfo) -> None:
    field.description = field.description or inherited.description
    given = {type(mark) for mark in field.metadata}
    field.metadata += [mark for mark in inherited.metadata if isinstance(mark, _MARKS) and type(mark) not in given]


def mark_of(field: FieldInfo, kind: type[_Mark]) -> _Mark | None:
    """The mark of that kind on a field; None without one."""
    return next((mark for mark in field.metadata if isinstance(mark, kind)), None)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section a field holds, for `S` and `S | None`; None for a field of another type."""
    optional = get_origin(annotation) in (Union, UnionType)
    for candidate in get_args(annotation) if optional else (annotation,):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def element_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds a list of; None for a field of another type."""
    return section_of(get_args(annotation)[0]) if get_origin(annotation) is list else None


def default_of(field: FieldInfo) -> Any:
    """The default, as it is in JSON; None for a field without one."""
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else _ANY.dump_python(default, mode="json")


_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def differing(config: BaseModel) -> dict[str, Any]:
    """The settings that differ from the defaults, as nested mappings of JSON values. Validating them gives the configuration again."""
    return without_defaults(type(config), config.model_dump(mode="json"))


def without_defaults(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON values without those that are at the model's default. Settings that the model does not have are kept."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        field = model.model_fields.get(name)
        section, element = (section_of(field.annotation), element_of(field.annotation)) if field else (None, None)
        if field is None:
            kept[name] = value
        elif section is not None and isinstance(value, Mapping):
            inside = without_defaults(section, value)
            if inside or field.is_required() or default_of(field) is None:  # a section that is off by default is on
                kept[name] = inside
        elif field.is_required() or value != default_of(field):
            entries = element is not None and isinstance(value, list)
            kept[name] = [without_defaults(element, one) for one in value] if entries and element else value
    return kept


def flat(values: Any, key: str = "") -> dict[str, Any]:
    """`section.key` → value; entries of a list of mappings by number (`environment.mixture.0.name`)."""
    if isinstance(values, Mapping) and (values or not key):
        named = {str(name): value for name, value in values.items()}
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        named = {str(at): value for at, value in enumerate(values)}
    else:
        return {key: values}
    found: dict[str, Any] = {}
    for name, value in named.items():
        found |= flat(value, f"{key}.{name}" if key else name)
    return found


def is_free(model: type[BaseModel], key: str) -> bool:
    """Whether the setting `section.key`, or a section it is in, may differ when a run is resumed."""
    fields = list(_fields_along(model, key))
    return any(mark_of(field, Free) is not None for field in fields)


def is_content_alone(model: type[BaseModel], key: str) -> bool:
    """Whether the setting `section.key` is decided by the content of the file it names alone."""
    fields = list(_fields_along(model, key))
    mark = mark_of(fields[-1], Content) if fields else None
    return mark is not None and mark.alone


def default_at(model: type[BaseModel], key: str) -> Any:
    """The default of the setting `section.key`; None without one."""
    fields = list(_fields_along(model, key))
    parts = [part for part in key.split(".") if not part.isdecimal()]
    return default_of(fields[-1]) if len(fields) == len(parts) else None


def _fields_along(model: type[BaseModel], key: str) -> Iterator[FieldInfo]:
    """The fields that the parts of a dotted key name, as far as the model knows them."""
    at: type[BaseModel] | None = model
    for part in key.split("."):
        if part.isdecimal():
            continue
        field = at.model_fields.get(part) if at is not None else None
        if field is None:
            return
        yield field
        at = section_of(field.annotation) or element_of(field.annotation)


def content_hashes(config: BaseModel, prefix: str = "") -> dict[str, str]:
    """`section.key` → SHA-256 of the content of the file it names, for the settings marked `Content`. Raises ConfigError for a file that cannot be read."""
    found: dict[str, str] = {}
    for name, field in type(config).model_fields.items():
        key, value, mark = f"{prefix}{name}", getattr(config, name), mark_of(field, Content)
        if isinstance(value, BaseModel):
            found |= content_hashes(value, f"{key}.")
        elif isinstance(value, list) and element_of(field.annotation) is not None:
            for at, one in enumerate(value):
                found |= content_hashes(one, f"{key}.{at}.")
        elif mark is not None and value is not None:
            try:
                hashed = mark.hash_of(str(value))
            except OSError as error:
                raise ConfigError(
                    f"{key} {value} cannot be read: {error.strerror}.", "Name a file that exists."
                ) from error
            if hashed is not None:
                found[key] = hashed
    return found


def file_hash(path: str) -> str:
    """SHA-256 of a file's content. Raises OSError."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
