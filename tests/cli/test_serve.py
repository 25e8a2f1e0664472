"""What `rollhouse serve` refuses before it loads a model."""

import socket
from pathlib import Path

import pytest
from rollhouse.cli.main import app
from typer.testing import CliRunner


def refused(tmp_path: Path, *options: str) -> str:
    """The error of a command that exits with 2."""
    done = CliRunner().invoke(app, ["serve", "--store", str(tmp_path / "store"), *options])
    assert done.exit_code == 2, done.output
    return " ".join(done.output.split())


def test_an_address_others_reach_needs_a_key(tmp_path: Path, tiny_base: Path) -> None:
    reported = refused(tmp_path, "--engine", "torch", "--model", str(tiny_base), "--host", "0.0.0.0")
    assert "the server has no API key. Set a key with --api-key-env VAR, or serve on 127.0.0.1." in reported


def test_a_taken_port_is_reported_before_the_model_is_loaded(tmp_path: Path, tiny_base: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        reported = refused(tmp_path, "--engine", "torch", "--model", str(tiny_base), "--port", port)
    assert f"Cannot bind 127.0.0.1:{port}: Address already in use. Use another --port; 0 takes a free port." in reported


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (["--engine", "scripted"], "The scripted engine cannot be served."),
        (["--engine", "torch"], "needs a model"),
        (["--engine", "torch", "--model", "m", "--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        (["--engine", "torch", "--api-key", "a", "--api-key-env", "B"], "both name a key"),
        (["--engine", "openai:http://127.0.0.1:9", "--idle-limit", "0"], "server.idle_limit_s cannot be 0.0"),
    ],
)
def test_a_wrong_request_is_two_sentences(tmp_path: Path, options: list[str], reported: str) -> None:
    assert reported in refused(tmp_path, *options)
