"""The end of a run, however it comes, is the end of its harnesses."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .test_playing import is_alive


@pytest.mark.system
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killing_the_driver_leaves_no_harness_process(tmp_path: Path, how: signal.Signals) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    driver = subprocess.Popen([sys.executable, str(Path(__file__).with_name("driver.py")), str(marks), str(tmp_path / "store")])  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while len(pids := [int(mark.name) for mark in marks.iterdir()]) < 3 and time.monotonic() < deadline:
            assert driver.poll() is None
            time.sleep(0.1)
        assert len(pids) == 3 and all(map(is_alive, pids))
        driver.send_signal(how)
        driver.wait(120)
        deadline = time.monotonic() + 60
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(is_alive, pids))
    finally:
        driver.kill()
        driver.wait()
