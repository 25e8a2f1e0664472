"""The viewer beside a long command: its address where one runs, and `--view`, which starts one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..base.errors import MissingExtra
from ..base.packages import install_command
from .common import say

if TYPE_CHECKING:
    from ..store.lance_store import LanceStore

ViewOption = Annotated[
    bool,
    typer.Option("--view", help="Show the store in the browser while the command runs.", rich_help_panel="Output"),
]
_END_S = 5.0


@contextmanager
def viewing(store: "LanceStore", starts: bool) -> Iterator[None]:
    """Prints the address of the viewer of the store on stderr; with `starts` one is started if none runs, and ends with the block.

    Raises MissingExtra when a viewer is to be started and the package that serves it is not installed.
    """
    from ..view.notes import running

    url = running(store)
    child = None if url is not None or not starts else _start(store.uri)
    if child is not None:
        assert child.stdout is not None
        url = child.stdout.readline().strip() or None
    if url is not None:
        say(f"Viewing at {url}", stderr=True)
    try:
        yield
    finally:
        if child is not None:
            _end(child)


def _start(uri: str) -> "subprocess.Popen[str]":
    import importlib.util

    if importlib.util.find_spec("aiohttp") is None:
        raise MissingExtra("The package aiohttp is not installed.", f"Run `{install_command('view')}`.")
    command = [sys.executable, "-m", "rollhouse.view.child", uri]
    # A session of its own: Ctrl-C is for the command, which then closes the viewer's stdin.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _end(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
