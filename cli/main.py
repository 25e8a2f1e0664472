"""The `rollhouse` command: one Typer application, one module a noun, and one place where errors become exit codes."""

import errno
import importlib.util
import re
import signal
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..base.errors import ConfigError, RollhouseError, interrupted, one_line
from .command import Application
from .common import State, print_error


class Interrupted(RollhouseError):
    """The command was stopped by Ctrl-C or SIGTERM."""

    exit_code = 130


class Commands(TyperGroup):
    """Runs a command and turns what went wrong into two sentences and an exit code: 1 it failed, 2 the request was wrong, 130 it was interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; with --debug errors keep their traceback."""
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if State.debug or _is_typers(error):
                raise
            shown = explain(error)
            print_error(shown)
            raise typer.Exit(shown.exit_code) from error


app = Application(
    name="rollhouse",
    cls=Commands,
    help="Rollouts in, datasets and trained policies out, and a line from every checkpoint back to what made it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Each module has `register(app)`. They import heavy packages inside their functions, so that --help stays quick.
MODULES = ("demo", "doctor", "tasks", "collect", "serve", "importing", "exporting", "rescore", "sql", "search", "view", "show", "label", "snapshot", "dataset", "train", "evaluate", "report", "runs", "pack", "store")  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"rollhouse {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options that come before the command."""
    State.debug = debug


for module in MODULES:
    if importlib.util.find_spec(f".{module}", __package__):
        import_module(f".{module}", __package__).register(app)


def main() -> None:
    """The console script. SIGTERM ends it as Ctrl-C does: what was collected is written, and what was started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        app()
    except KeyboardInterrupt:  # before the command began
        print("Interrupted.", file=sys.stderr)
        sys.exit(Interrupted.exit_code)


def explain(error: BaseException) -> RollhouseError:
    """Any failure as one sentence and one piece of advice."""
    if isinstance(error, RollhouseError):
        return error
    if interrupted(error):
        return Interrupted(
            "Interrupted.", "What was committed before is in the store; the same command goes on from there."
        )
    if isinstance(error, OverflowError):
        return ConfigError("A number of the command is too large.", f"Give one of at most {2**31 - 1}.")
    where = f" at {error.filename}" if isinstance(error, OSError) and error.filename else ""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error)
    if full:
        return RollhouseError(
            f"The disk is full{where}.", "Free some space and run the same command again; what was committed is kept."
        )
    denied = _denied(error)
    if denied:
        return denied
    said = getattr(error, "strerror", None) or one_line(error).rstrip(".")
    if not isinstance(error, OSError):
        said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return RollhouseError(f"{said}{where}.", "`rollhouse --debug …` shows where it happened.")


def _denied(error: BaseException) -> RollhouseError | None:
    """What is said where the system forbids to read or write; Lance's errors have the reason and the path in their text alone."""
    text = str(error)
    number = getattr(error, "errno", None)
    if number not in (errno.EACCES, errno.EPERM, errno.EROFS) and not re.search(
        r"Permission denied|Read-only file system", text
    ):
        return None
    path = getattr(error, "filename", None) or next(iter(re.findall(r'at path "([^"]+)"', text)), None)
    reason = (
        "the file system is read-only" if number == errno.EROFS or "Read-only file" in text else "permission is denied"
    )
    return RollhouseError(
        f"{one_line(path) if path else 'A file'} cannot be read or written: {reason}.",
        "Check its owner and mode. Commands that only read work on a store that cannot be written; others need a copy of it.",
    )


def _is_typers(error: BaseException) -> bool:
    # How an exit and a usage error travel; which package the classes are in depends on the version of Typer.
    return type(error).__module__.split(".")[0] in ("typer", "click")


if __name__ == "__main__":
    main()
