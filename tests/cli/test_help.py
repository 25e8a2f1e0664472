"""Every command has a help text, which imports nothing heavy."""

import re
import subprocess
import sys
from typing import Any

import pytest
import typer
from rollhouse.base.options import option_types, options_of
from rollhouse.cli.main import app
from typer.testing import CliRunner

COMMAND = typer.main.get_command(app)


def walk(command, path=()):
    """Every command and group below `command`, with its path."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


@pytest.mark.parametrize("path", [" ".join(path) for path, _ in walk(COMMAND)])
def test_every_command_has_help(path: str) -> None:
    result = CliRunner().invoke(app, [*path.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output
    command = next(command for names, command in walk(COMMAND) if " ".join(names) == path)
    stated = [getattr(parameter, "help", None) or "" for parameter in command.params]
    assert result.output.count("[default:") >= sum("[default: " in text for text in stated), "shown, not read as markup"


def test_every_command_and_option_is_described() -> None:
    undescribed = []
    for path, command in walk(COMMAND):
        if path and not command.help:
            undescribed.append(" ".join(path))
        undescribed += [
            f"{' '.join(path)} {parameter.name}"
            for parameter in command.params
            if getattr(parameter, "param_type_name", "") == "option"
            and parameter.name != "help"
            and not getattr(parameter, "help", None)
        ]
    assert undescribed == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['rollhouse', '--help']\n"
        "from rollhouse.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "print([m for m in ('lance', 'pyarrow', 'torch', 'ray', 'duckdb', 'polars', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_unknown_command_exits_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rollhouse.cli.main", "nope"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2


PATHS = [" ".join(path) for path, _ in walk(COMMAND)]


@pytest.mark.parametrize("path", PATHS)
def test_help_is_readable_at_80_columns(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, [*path.split(), "--help"]).output
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80 and not re.search(r"<[a-z]+( range|\[)?", shown), shown
    columns = [match.end() for line in lines if (match := re.match(r"  -{1,2}[a-z]\S*( [^ ]+)*  +(?=\S)", line))]
    assert not columns or 80 - max(columns) >= 30, "texts have a column of 30 characters at least"


CONFIGURED = [" ".join(path) for path, command in walk(COMMAND) if hasattr(command, "model")]


@pytest.mark.parametrize("path", CONFIGURED)
def test_the_options_of_a_command_are_those_of_its_model(path: str) -> None:
    command: Any = next(command for names, command in walk(COMMAND) if " ".join(names) == path)
    made = {name for parameter in command.params if parameter.name.startswith("setting_") for name in parameter.opts}
    options = [option for option in options_of(command.model()) if not option.positional]
    assert made - {f"setting_{option.name}" for option in options} >= {option.flag for option in options}
    assert {option.name for option in options} <= option_types(command.model()).keys()
    assert {"config", "settings", "dry_run"} <= {parameter.name for parameter in command.params}


def test_the_commands_that_run_something_are_configured() -> None:
    assert {"collect", "serve", "eval env", "eval bfcl"} <= set(CONFIGURED)


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["runs", "-h"]])
def test_the_package_is_a_command(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "rollhouse", *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rollhouse 0.") or "Usage:" in done.stdout
