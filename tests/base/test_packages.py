"""Errors about a missing extra name a command that installs it for the rollhouse that runs."""

import json
import shlex
from pathlib import Path

import pytest
from rollhouse.base.packages import install_command


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": "file:///built/rollhouse-0.1.0-py3-none-any.whl"}, ["rollhouse[math] @ file:///built/rollhouse-0.1.0-py3-none-any.whl"]),
        ({"url": "file:///my%20checkout", "dir_info": {"editable": True}}, ["-e", "/my checkout[math]"]),
        ({"url": "file:///checkout", "dir_info": {}}, ["rollhouse[math] @ file:///checkout"]),
    ],
)  # fmt: skip
def test_the_command_names_where_rollhouse_came_from(
    origin: dict, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, told in enumerate((None, origin)):
        info = tmp_path / str(number) / "rollhouse-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rollhouse\nVersion: 0.1.0\n")
        if told is not None:
            (info / "direct_url.json").write_text(json.dumps(told))
    for number in (1, 0):  # the one that tells nothing comes first, as in a folder where a wheel was built
        monkeypatch.syspath_prepend(tmp_path / str(number))
    assert shlex.split(install_command("math")) == ["pip", "install", *command]
    assert "[" not in install_command()
