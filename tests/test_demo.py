"""The demo, as a user types it: everything in an empty folder, a summary, a report, and nothing left running."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rollhouse.cli.demo_plan import MODES, POLICIES, plan
from rollhouse.cli.demo_run import free_folder
from rollhouse.cli.main import app
from typer.main import get_command


def test_every_command_of_the_demo_is_one_that_rollhouse_takes(tmp_path: Path) -> None:
    for step in plan(3, tmp_path):
        for arguments in step.commands:
            command: Any = get_command(app)
            rest = list(arguments)
            while hasattr(command, "commands"):
                command = command.commands[rest.pop(0)]
            command.make_context("rollhouse", rest, resilient_parsing=False)


def test_a_folder_that_is_taken_gets_one_beside_it(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert free_folder(tmp_path / "demo") == tmp_path / "demo-3"


@pytest.mark.system
def test_the_whole_demo(tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-m", "rollhouse.cli.main", "demo", "--seed", "3", "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    summary = json.loads((store / "summary.json").read_text())
    assert summary["seed"] == 3 and summary["lineage_ok"] is True
    assert set(summary["pass_rate"]) == set(summary["pass_rate_greedy"]) == set(POLICIES)
    assert summary["pass_rate"]["sft"] > summary["pass_rate"]["base"] + 0.1
    assert summary["pass_rate"]["grpo"] > summary["pass_rate"]["base"]
    assert summary["bfcl"] and summary["datasets"].keys() == {"demos", "pairs", "prompts"}
    assert len(summary["checkpoints"]) == 3 and summary["snapshots"] == ["logs", "base"]
    page = (store / "report.html").read_text()
    assert all(f"eval-{policy}-{mode}" in page for policy in POLICIES[1:] for mode in MODES)

    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 2 and "already holds a store" in again.stderr
    time.sleep(3)
    left = [
        process.info
        for process in psutil.process_iter(["cmdline", "name"])
        if str(store) in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []
