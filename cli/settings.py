"""One resolved configuration out of a pydantic model, a YAML recipe and dotted overrides."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ..base.errors import ConfigError, one_line

Model = TypeVar("Model", bound=BaseModel)
RECIPES = Path(__file__).resolve().parent.parent / "configs"


def resolve(model: type[Model], recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Model:
    """The configuration a command runs with: the model's defaults, then the recipe, then the overrides.

    Args:
        recipe: A YAML file, or the name of a recipe that ships with rollhouse (`tiny-sft`).
        overrides: `a.b=value`, the value in YAML; entries of a list by number, from 0; a leading `+` or `++` is accepted and means nothing.

    Raises:
        ConfigError: A recipe that cannot be read, a key the model does not have, or a value it does not take.
    """
    return _resolved(model, read_recipe(recipe) if recipe else {}, overrides)


def with_overrides(config: Model, overrides: Sequence[str]) -> Model:
    """The configuration with some settings changed. Overrides and errors as of `resolve`."""
    return _resolved(type(config), config.model_dump(mode="json"), overrides)


def _resolved(model: type[Model], values: dict[str, Any], overrides: Sequence[str]) -> Model:
    for override in overrides:
        _set(values, override)
    _refuse_unknown(values, model)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _config_error(error) from error


def to_yaml(config: BaseModel) -> str:
    """The configuration as the YAML recipe that resolves to it."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file, or in the shipped recipe of that name."""
    import yaml

    path = Path(recipe)
    if not path.is_file():
        path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml"))) or "none"
        raise ConfigError(
            f"There is no recipe {str(recipe)!r}.", f"Name a YAML file, or one of those shipped: {shipped}."
        )
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error)}.", "Correct it at the line named.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, not a mapping.", "Write `key: value` lines.")
    return values


def _set(values: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, text = override.lstrip("+").partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not an override.", "Write them as `section.key=value`.")
    *sections, last = key.split(".")
    inside: Any = values
    for section in sections:
        at = _place(inside, section, key)
        if isinstance(inside, dict) and not isinstance(inside.get(at), (dict, list)):
            inside[at] = {}
        inside = inside[at]
    try:
        inside[_place(inside, last, key)] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"The value of {key} is not YAML: {one_line(error)}.", "Quote it.") from error


def _place(inside: Any, name: str, key: str) -> str | int:
    """The key of a mapping, or the position in a list, that a part of a dotted key names."""
    if isinstance(inside, dict):
        return name
    if isinstance(inside, list) and name.isdecimal() and int(name) < len(inside):
        return int(name)
    raise ConfigError(f"There is no {name!r} where {key!r} points.", "Entries of a list are named by number, from 0.")


def _refuse_unknown(values: dict[str, Any], model: type[BaseModel], prefix: str = "") -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            raise _unknown(f"{prefix}{key}", model, prefix)
        section = _section(model.model_fields[key].annotation)
        if section is not None and isinstance(value, dict):
            _refuse_unknown(value, section, f"{prefix}{key}.")


def _unknown(key: str, model: type[BaseModel], prefix: str) -> ConfigError:
    known = [f"{prefix}{name}" for name in _keys(model)]
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    advice = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}."
    return ConfigError(f"There is no setting {key!r}.", advice)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        section = _section(field.annotation)
        if section is not None:
            yield from _keys(section, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    # `Section` and `Section | None` are walked into; every other type is left to pydantic.
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _config_error(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the configuration"
    if first["type"] == "missing":
        return ConfigError(f"{key} is not set.", f"Give it in the recipe or as `{key}=…`.")
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{key} cannot be {first['input']!r}: {message}.", "`--dry-run` prints what was resolved.")
