"""Writes `api_options.py`, the keywords of `Store`'s methods, from the models of the settings: `python tests/api_options.py`."""

import collections.abc
import json
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from rollhouse.base.options import option_types, options_of
from rollhouse.collect.config import CollectConfig, RescoreConfig
from rollhouse.environments.config import TasksConfig
from rollhouse.eval.config import BfclConfig, EvaluationConfig
from rollhouse.interop.config import ExportConfig, ImportConfig
from rollhouse.serve.config import ServeConfig
from rollhouse.train.dpo import DpoConfig
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.sft import SftConfig
from rollhouse.transform.options import DpoOptions, GrpoOptions, SftOptions

FILE = Path(__file__).resolve().parents[1] / "api_options.py"
MODELS: dict[str, tuple[type[BaseModel], ...]] = {
    "CollectOptions": (CollectConfig,),
    "EvaluateOptions": (EvaluationConfig, BfclConfig),
    "RescoreOptions": (RescoreConfig,),
    "TasksOptions": (TasksConfig,),
    "ServeOptions": (ServeConfig,),
    "ImportOptions": (ImportConfig,),
    "ExportOptions": (ExportConfig,),
    "SftBuildOptions": (SftOptions,),
    "DpoBuildOptions": (DpoOptions,),
    "GrpoBuildOptions": (GrpoOptions,),
    "SftTrainingOptions": (SftConfig,),
    "DpoTrainingOptions": (DpoConfig,),
    "GrpoTrainingOptions": (GrpoConfig,),
}
HEAD = '''"""Keywords of the methods of `Store`, one class per command. Generated from the models of the settings by `tests/api_options.py`.

A keyword is a flag of the command, or a section or setting of its configuration. None leaves a setting as it is. A section is given as an
object (`rh.vllm(...)`) or a mapping.
"""

'''
IMPORTS = {"Mapping[": "from collections.abc import Mapping\n", "PathLike[": "from os import PathLike\n"}
# Keywords that take an object of the store besides its id.
OBJECTS = {"dataset": "Any", "model": "Any", "of_run": "Any"}
# Keywords that the method itself has.
OWN = {"EvaluateOptions": {"policy"}, "RescoreOptions": {"scorer"}, "TasksOptions": {"env"}}


def source() -> str:
    """The text of the file."""
    classes = "".join(f"\n\n{_class(name, models)}" for name, models in MODELS.items())
    imports = "".join(line for used, line in IMPORTS.items() if used in classes)
    return f"{HEAD}{imports}from typing import Any, Literal, TypedDict\n{classes}"


def _class(name: str, models: tuple[type[BaseModel], ...]) -> str:
    """The keywords of all the models, of which the first describes those that several have."""
    lines = [f"class {name}(TypedDict, total=False):", f'    """{(models[0].__doc__ or "").splitlines()[0]}"""', ""]
    types_of: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for model in models:
        helps = {option.name: option.help for option in options_of(model)}
        for keyword, annotation in option_types(model).items():
            if keyword in OWN.get(name, ()):
                continue
            types_of.setdefault(keyword, []).append(OBJECTS.get(keyword) or _text(annotation))
            field = model.model_fields.get(keyword)
            text = helps.get(keyword) or (field.description if field is not None else None) or ""
            texts.setdefault(keyword, " ".join(text.split()))
    for keyword, found in types_of.items():
        lines.append(f"    {keyword}: {' | '.join(dict.fromkeys(found))}")
        if texts[keyword]:
            lines.append(f'    """{texts[keyword]}"""')
    return "\n".join(lines) + "\n"


def _text(annotation: Any) -> str:
    """The annotation as source; a section is a model or a mapping of its settings."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _text(arguments[0])
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_text(one) for one in arguments))
    if origin is Literal:
        return f"Literal[{', '.join(json.dumps(one) for one in arguments)}]"
    if origin in (list, tuple, dict, collections.abc.Mapping, collections.abc.Sequence):
        inside = ", ".join("..." if one is Ellipsis else _text(one) for one in arguments)
        return f"{'Mapping' if origin is collections.abc.Mapping else origin.__name__}[{inside}]"
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "Any"  # any section object: of another command's section, what was set counts
    if annotation is Path:
        return "str | PathLike[str]"
    return annotation.__name__ if isinstance(annotation, type) else "Any"


if __name__ == "__main__":
    FILE.write_text(source())
