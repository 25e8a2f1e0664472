"""What a collection shows while it runs."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rollhouse.cli.live import Pace, Panel
from rollhouse.cli.main import app
from rollhouse.collect.summary import CollectSummary
from rollhouse.tests.rows import sum_rollout
from typer.testing import CliRunner

OFFICE = Path(__file__).with_name("slow_office.py")


def drawn(panel: Panel, now: float, width: int = 80) -> str:
    out = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    out.print(panel.draw(now))
    return out.export_text()


def test_the_panel_shows_progress() -> None:
    panel = Panel("mine")
    assert "starting" in drawn(panel, 0.0)
    panel.summary = so_far = CollectSummary("mine", planned=100, skipped=10)
    assert "10/100" in drawn(panel, 0.0)
    good = sum_rollout("mine", n_sampled_tokens=50)
    bad = sum_rollout("mine", status="error", error_type="engine", error_message="It is down." * 20, reward=None, passed=None, n_sampled_tokens=0)  # fmt: skip
    for rollout in [good] * 18 + [bad] * 2:
        so_far.add(rollout)
    so_far.in_flight = 7
    so_far.saw_tools({"search": 3.25})
    shown = drawn(panel, 10.0)
    for part in ("30/100", "ETA 0:00:35", "done 18", "failed 2", "in flight 7", "there before 10", "2 rollouts/s", "90 tokens/s", "reward 1.000", "slowest tool search, 3.25 s", "It is down"):  # fmt: skip
        assert part in shown, shown
    assert max(map(len, drawn(panel, 10.0, width=40).splitlines())) <= 40


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    pace = Pace()
    assert pace.take(0.0, 0, 0) == (0.0, 0.0)
    for i in range(1, 241):
        last = pace.take(i * 0.25, i if i <= 120 else 120 + 2 * (i - 120), 0)
    assert 7.5 < last[0] <= 8.0, "two a quarter of a second, as of late"


def test_a_terminal_gets_the_live_view_and_a_pipe_a_plain_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rollhouse.cli.main", "collect", "--env", str(OFFICE), "--limit", "40", "--concurrency", "8", "--store", str(tmp_path / "store"), "--run"]  # fmt: skip
    ours, theirs = pty.openpty()
    environment = {**os.environ, "SLOW_OFFICE_S": "0.1", "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([*command, "live"], stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    shown, limit = b"", time.monotonic() + 60
    while time.monotonic() < limit:
        try:
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait(30) == 0
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert "in flight 8" in text and "40/40" in text and "reward 1.000" in text
    plain = CliRunner().invoke(app, [*command[3:], "plain"])
    assert "in flight" not in plain.stderr and "40/40" in plain.stderr
