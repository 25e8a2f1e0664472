"""The `rollhouse` command: one Typer application, one module a noun, and one place where errors become exit codes."""

import sys
from importlib import import_module

import typer

from ..store.errors import RollhouseError
from .common import State, print_error

app = typer.Typer(
    name="rollhouse",
    help="Rollouts in, datasets and trained policies out, and a line from every checkpoint back to what made it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Each module has `register(app)`. They import heavy packages inside their functions, so that --help stays quick.
MODULES = ("demo", "doctor", "collect", "importing", "rescore", "sql", "snapshot", "dataset", "train", "evaluate", "report", "runs", "house")  # fmt: skip


@app.callback()
def options(debug: bool = typer.Option(False, "--debug", help="Show a traceback when something fails.")) -> None:
    """Options that come before the command."""
    State.debug = debug


import importlib.util  # noqa: E402  temporary: until every module exists

for module in MODULES:
    if importlib.util.find_spec(f".{module}", __package__) is None:
        continue
    import_module(f".{module}", __package__).register(app)


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 it failed, 2 the request was wrong, 130 interrupted."""
    try:
        app()
    except RollhouseError as error:
        if State.debug:
            raise
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_error(RollhouseError("Interrupted.", "What was collected before is in the house."))
        sys.exit(130)
    except OSError as error:
        if State.debug:
            raise
        print_error(os_error(error))
        sys.exit(1)


def os_error(error: OSError) -> RollhouseError:
    """An operating-system failure as one sentence and one piece of advice."""
    import errno

    where = f" at {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC or "No space left" in str(error) or "os error 28" in str(error):
        return RollhouseError(
            f"The disk is full{where}.", "Free some space and run the same command again; what was committed is kept."
        )
    return RollhouseError(
        f"{error.strerror or error}{where}.", "Run with --debug before the command to see where it happened."
    )
