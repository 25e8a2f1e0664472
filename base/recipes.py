"""One resolved configuration out of a model, a YAML recipe, options and dotted overrides."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .config import section_of
from .errors import ConfigError, one_line
from .options import options_of
from .plugins import parse_plugin
from .yaml_text import load_yaml, load_yaml_file

Model = TypeVar("Model", bound=BaseModel)
# `val:accuracy` and `verifiers:NAME` have the form of a plug-in and are none.
_MOST = 2**63 - 1
_NO_CODE = {"metric_name", "metric"}
_ADAPTERS = {"verifiers", "harbor", "mcp", "openai", "pypi", "hf"}
RECIPES = Path(__file__).resolve().parent.parent / "configs"


def resolve(
    model: type[Model],
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Model:
    """The configuration a command runs with: the model's defaults, then the recipe, the options and the overrides.

    Args:
        recipe: A YAML file, or the name of a recipe that ships with rollhouse (`tiny-sft`).
        overrides: `a.b=value`, the value in YAML; entries of a list by number, from 0; a leading `+` or `++` is accepted and means nothing.
        options: By keyword, as in `option_types`: what has a flag by the flag's name, other settings and whole sections (a section object or a
            mapping; of an object, what was set) by the field's name. None leaves a setting as it is.

    Raises ConfigError for a recipe that cannot be read, a key the model does not have, or a value that the setting does not accept.
    """
    values = read_recipe(recipe) if recipe else {}
    if recipe:
        _refuse_recipe_of_another(recipe, values, model)
    _take_options(values, model, options or {})
    return _resolved(model, values, overrides)


def with_changes(config: Model, recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Model:
    """The configuration with the settings of a recipe changed, then the overrides. Arguments and errors as of `resolve`."""
    values = config.model_dump(mode="json")
    for name, value in (read_recipe(recipe) if recipe else {}).items():
        _put(values, [name], value)
    return _resolved(type(config), values, overrides)


def _refuse_recipe_of_another(recipe: str | Path, values: dict[str, Any], model: type[BaseModel]) -> None:
    """Raises ConfigError for a shipped recipe with settings that the command lacks: it is of another command, which its first lines name."""
    shipped = RECIPES / f"{recipe}.yaml"
    if Path(recipe).is_file() or not shipped.is_file():
        return
    try:
        _refuse_unknown(values, model)
    except ConfigError as error:
        named = re.search(
            rf"rollhouse ((?:[a-z]+ )+)(?:\S+ )?--config {re.escape(str(recipe))}\b",
            shipped.read_text(encoding="utf-8"),
        )
        if named is None:
            raise
        raise ConfigError(f"The recipe {recipe} is not one of this command: {error.message}", f"It is a recipe of `rollhouse {named[1].strip()}`.") from None  # fmt: skip


def _take_options(values: dict[str, Any], model: type[BaseModel], options: Mapping[str, Any]) -> None:
    keys = {name: name for name in model.model_fields} | {option.name: option.key for option in options_of(model)}
    # Sections come first: an option of its own wins over a section object.
    for name, value in sorted(options.items(), key=lambda item: not isinstance(item[1], (BaseModel, Mapping))):
        if name not in keys:
            near = get_close_matches(name, keys, n=1, cutoff=0.5)
            advice = f"Did you mean {near[0]!r}?" if near else f"Options are {', '.join(sorted(keys))}."
            raise ConfigError(f"There is no option {name!r}.", advice)
        if value is not None:
            _put(values, keys[name].split("."), value)


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    *sections, last = path
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in (*value.model_fields_set, *(value.model_extra or {}))}
    if isinstance(value, Mapping):
        if not isinstance(values.get(last), dict):
            values[last] = {}
        for name, inside in value.items():
            _put(values[last], [name], inside)
    else:
        values[last] = os.fspath(value) if isinstance(value, os.PathLike) else value


def _resolved(model: type[Model], values: dict[str, Any], overrides: Sequence[str]) -> Model:
    for override in overrides:
        _set(values, override)
    _refuse_unknown(values, model)
    _refuse_huge(values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _config_error(error, model) from error


def _refuse_huge(values: Any, key: str = "") -> None:
    """Raises ConfigError for a whole number that no machine integer holds."""
    if isinstance(values, int) and abs(values) > _MOST:
        raise ConfigError(f"{key} cannot be {values}: the number is too large.", f"Give one of at most {_MOST}.")
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, value in inside:
        _refuse_huge(value, f"{key}.{name}" if key else str(name))


def to_yaml(config: BaseModel) -> str:
    """The configuration as the YAML recipe that resolves to it."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The mapping in a recipe file, or in the shipped recipe of that name."""
    path = Path(recipe)
    if not path.is_file():
        path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml"))) or "none"
        raise ConfigError(
            f"There is no recipe {str(recipe)!r}.",
            f"Name a YAML file or a recipe that ships with rollhouse: {shipped}.",
        )
    values = load_yaml_file(path)
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}, not a mapping.", "Write lines of the form `key: value`."
        )
    return values


def code_named(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a recipe that name or hold Python code, and what they say."""
    if isinstance(values, dict):
        for name, value in values.items():
            if name == "command" and value:
                yield f"{key}.{name}" if key else str(name), str(value)
            yield from code_named(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from code_named(value, f"{key}.{number}")
    elif isinstance(values, str) and _is_code(key.rpartition(".")[2] if not key[-1:].isdigit() else "", values):
        yield key, values


def _is_code(name: str, text: str) -> bool:
    plugin = parse_plugin(text)
    if name == "function" or (plugin is not None and plugin.file is not None):
        return True
    return plugin is not None and name not in _NO_CODE and plugin.module not in _ADAPTERS


def refuse_code(recipe: str | Path, allowed: bool) -> None:
    """Raises ConfigError for a recipe file of the user's that names Python code, unless that is allowed. Shipped recipes name none."""
    if allowed or not Path(recipe).is_file():
        return
    for key, said in code_named(read_recipe(recipe)):
        shown = one_line(said, 60)
        raise ConfigError(f"The recipe {recipe} names Python code: {key} is {shown!r}. It would run with your rights.", "Read that code, then add --allow-code, or move the setting to the command line.")  # fmt: skip


def refuse_stored_code(run_id: str, named: Iterable[tuple[str, str]], allowed: bool) -> None:
    """Raises ConfigError for a stored run that names Python code, which repeating it would import, unless that is allowed.

    Args:
        named: The settings that name code, and their values.
    """
    for key, said in () if allowed else named:
        shown = one_line(said, 60)
        raise ConfigError(f"Run {run_id!r} of the store names Python code: {key} is {shown!r}. It would run with your rights.", "Read that code, then add --allow-code (in Python allow_code=True), or give the setting yourself.")  # fmt: skip


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.lstrip("+").partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r} is not an override.", "Write overrides as `section.key=value`.")
    *sections, last = key.split(".")
    inside: Any = values
    for section in sections:
        at = _place(inside, section, key)
        if isinstance(inside, dict) and not isinstance(inside.get(at), (dict, list)):
            inside[at] = {}
        inside = inside[at]
    inside[_place(inside, last, key)] = load_yaml(text, f"The value of {key}")


def _place(inside: Any, name: str, key: str) -> str | int:
    """The key of a mapping, or the position in a list, that a part of a dotted key names."""
    if isinstance(inside, dict):
        return name
    if isinstance(inside, list) and name.isdecimal() and int(name) < len(inside):
        return int(name)
    raise ConfigError(
        f"{key!r} names no setting: there is no {name!r} in it.", "Name entries of a list by number, from 0."
    )


def _refuse_unknown(values: dict[str, Any], model: type[BaseModel], prefix: str = "") -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            if model.model_config.get("extra") == "allow":
                continue
            raise _unknown(f"{prefix}{key}", model, prefix)
        section = section_of(model.model_fields[key].annotation)
        if section is not None and isinstance(value, dict):
            _refuse_unknown(value, section, f"{prefix}{key}.")


def _unknown(key: str, model: type[BaseModel], prefix: str) -> ConfigError:
    known = [f"{prefix}{name}" for name in _keys(model)]
    same_name = [name for name in known if name.endswith(f".{key.rpartition('.')[2]}")]
    near = same_name or get_close_matches(key, known, n=1, cutoff=0.5)
    advice = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}."
    return ConfigError(f"There is no setting {key!r}.", advice)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        section = section_of(field.annotation)
        if section is not None:
            yield from _keys(section, f"{prefix}{name}.")


def _config_error(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the configuration"
    flag = next((option.flag for option in options_of(model) if option.key == key), None)
    if first["type"] == "missing":
        ways = f"Set it with {flag}, in the recipe," if flag else "Set it in the recipe"
        return ConfigError(f"{key} is not set.", f"{ways} or as `{key}=VALUE`.")
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"] or isinstance(first["input"], dict):  # a rule over several settings: its text names them
        return ConfigError(f"{key}: {message}.", "`--dry-run` prints the resolved configuration.")
    ways = f"Set it with {flag}; `--dry-run`" if flag else "`--dry-run`"
    return ConfigError(f"{key} cannot be {first['input']!r}: {message}.", f"{ways} prints the resolved configuration.")
