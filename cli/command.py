"""Commands whose options are made from the model of their settings, and help that is readable at 80 columns."""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel
from typer.core import TyperCommand

from ..base.config import Panel
from ..base.options import Option, options_of
from ..base.recipes import refuse_code, resolve

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.", rich_help_panel="Run")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="RECIPE", help="YAML file, or the name of a shipped recipe.", rich_help_panel="Run"
    ),
]
AllowCodeOption = Annotated[
    bool, typer.Option("--allow-code", help="Run the Python code that the recipe names.", rich_help_panel="Run")
]
StoredCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Run the Python code that the stored run or the recipe names.", rich_help_panel="Run"
    ),
]
_PREFIX = "setting_"  # a setting may have the name of a parameter that the command's function has
_NAMES_WIDTH = 28
_METAVARS = {int: "N", float: "X", str: "TEXT"}
_VALUES = {"int": "N", "float": "X", "path": "PATH", "bool": ""}


class PlainCommand(TyperCommand):
    """A command whose help lists its options under headings, names to the left and texts in a wide column."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, then the options by heading."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        panels |= {name: [] for name in (*get_args(Panel)[:-1], "Options", get_args(Panel)[-1])}
        for parameter in self.get_params(ctx):
            panel, record = getattr(parameter, "rich_help_panel", None) or "Options", _record(parameter, ctx)
            if parameter.param_type_name == "argument":
                panel, record = (
                    "Arguments",
                    (parameter.metavar or str(parameter.name).upper(), getattr(parameter, "help", None) or ""),
                )
            if record is not None:
                panels.setdefault("Output" if parameter.name == "help" else panel, []).append(record)
        for name, records in panels.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records, col_max=_NAMES_WIDTH)


def _record(parameter: Any, ctx: Any) -> tuple[str, str] | None:
    """The names and the text of an option, with a short name for a value that has none of its own."""
    record = parameter.get_help_record(ctx)
    return record and (re.sub(r"<([a-z[]+)[^>]*>", lambda kind: _VALUES.get(kind[1], "TEXT"), record[0]), record[1])


class Application(typer.Typer):
    """A group of commands with plain help."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **options: Any) -> Any:
        """As Typer's."""
        return super().command(name, cls=cls or PlainCommand, **options)


def settings_command(model: Callable[[], type[BaseModel]]) -> type[PlainCommand]:
    """The class of a command that is configured: pass it as `cls` to `app.command`.

    The command takes the model's options, `--config RECIPE` and `section.key=value`. Its function has the other parameters and a `typer.Context`, whose
    `obj` is the resolved configuration.

    Args:
        model: Returns the model of the configuration. It is called when the command is invoked or its help is shown, not before.
    """

    class Configured(PlainCommand):
        def model(self) -> type[BaseModel]:
            return model()

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._options: list[Option] | None = None
            super().__init__(*args, **kwargs)

        @property
        def params(self) -> Any:
            if self._options is None:
                self._options = options_of(model())
                own = {parameter.name for parameter in self._own}
                made = [parameter for parameter in _parameters(self._options) if parameter.name not in own]
                arguments = [one for one in self._own if one.param_type_name == "argument"]
                self._own = [*arguments, *made, *(one for one in self._own if one not in arguments)]
            return self._own

        @params.setter
        def params(self, value: Any) -> None:
            self._own = value

        def invoke(self, ctx: Any) -> Any:
            given = {
                name.removeprefix(_PREFIX): value for name, value in ctx.params.items() if name.startswith(_PREFIX)
            }
            recipe, settings = ctx.params["config"], ctx.params["settings"]
            if recipe:
                refuse_code(recipe, ctx.params["allow_code"])
            chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
            ctx.obj = resolve(model(), recipe, settings or (), {name: value for name, value in chosen.items() if value != []})  # fmt: skip
            ctx.params = {name: value for name, value in ctx.params.items() if name in own_names(self.callback)}
            return super().invoke(ctx)

    return Configured


def own_names(function: Any) -> set[str]:
    """Names of the parameters of a command's function."""
    return set(inspect.signature(function).parameters)


def _parameters(options: Iterable[Option]) -> list[Any]:
    """What Typer makes of the options, of `settings` and of `--config`."""

    def carrier(**_: Any) -> None: ...

    annotations: dict[str, Any] = {}
    for option in sorted(options, key=lambda option: not option.positional):
        annotations[f"{_PREFIX}{option.name}"] = _annotation(option)
    annotations["settings"] = Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings as `section.key=value`.")
    ]
    annotations["config"] = RecipeOption
    annotations["allow_code"] = AllowCodeOption
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    made = [
        inspect.Parameter(name, kind, default=False if name == "allow_code" else None, annotation=one)
        for name, one in annotations.items()
    ]
    carrier.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    carrier.__annotations__ = annotations
    app = typer.Typer(add_completion=False)
    app.command()(carrier)
    return typer.main.get_command(app).params


def _annotation(option: Option) -> Any:
    kind: Any = list[str] if option.multiple else option.kind
    metavar = option.metavar or (None if option.kind is bool else _METAVARS[option.kind])
    if option.positional:
        return Annotated[kind | None, typer.Argument(metavar=metavar, help=_help(option))]
    names = option.flag
    if option.kind is bool and option.default is not False:
        names = f"{option.flag}/--no-{option.flag.removeprefix('--')}"
    return Annotated[
        kind | None, typer.Option(names, metavar=metavar, help=_help(option), rich_help_panel=option.panel)
    ]


def _help(option: Option) -> str:
    """The description with the default, where the description does not state it."""
    default = option.default
    if option.required:
        return f"{option.help} [required]"
    if default in (None, False, [], {}) or "Default:" in option.help:
        return option.help
    shown = ", ".join(map(str, default)) if isinstance(default, list) else f"{default:g}" if isinstance(default, float) else default  # fmt: skip
    return f"{option.help} [default: {shown}]"
