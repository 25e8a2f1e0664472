"""Long commands without a terminal are not silent."""

import time

import pytest
from rollhouse.cli import log_progress
from rollhouse.cli.common import progress


def lines_of(capsys: pytest.CaptureFixture[str], at_least: int) -> list[str]:
    """What stderr got, as soon as it is so many lines."""
    found: list[str] = []
    end = time.monotonic() + 60
    while len(found) < at_least and time.monotonic() < end:
        time.sleep(0.01)
        found += capsys.readouterr().err.splitlines()
    return found


def test_a_line_comes_every_so_often_whether_it_moves_or_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_progress, "EVERY_S", 0.02)
    with progress() as bar:
        task = bar.add_task("sft", total=None, note="loading\x1b[2J")
        assert set(line.partition(" after ")[0] for line in lines_of(capsys, 3)) == {"sft 0"}
        bar.update(task, total=2000, completed=1500, note="loss 0.5")
        assert any(line.startswith("sft 1,500/2,000 after 0:") and line.endswith("loss 0.5") for line in lines_of(capsys, 4))  # fmt: skip
        bar.update(task, completed=2000)
        lines_of(capsys, 0)
    assert "\x1b" not in capsys.readouterr().err
    printing = bar._printing  # type: ignore[attr-defined]
    assert not printing.is_alive(), "nothing is left behind"
