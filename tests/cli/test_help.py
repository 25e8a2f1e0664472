"""Every command says what it does, and saying it imports nothing heavy."""

import subprocess
import sys

import pytest
import typer
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
