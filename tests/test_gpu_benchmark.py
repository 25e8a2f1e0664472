"""benchmarks/gpu.py in its tiny setting: each measure has rows, and none failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"

pytestmark = pytest.mark.system


def test_every_measure_runs_without_an_installation(tmp_path: Path) -> None:
    # From another folder and without the checkout on the path: the script finds the package by its own place.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(tmp_path / "gpu")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "gpu.json").read_text())
    measures = report["measures"]
    assert list(measures) == ["learner", "gradients", "attention", "optimizer", "push", "grpo", "vllm"]
    assert all(rows for rows in measures.values())
    assert all(row["tokens / s"] > 0 for row in measures["learner"])
    shared = next(row for row in measures["gradients"] if row["variant"] == "float32, shared prompts")
    assert shared["relative difference"] < 5e-5
    assert [row["step"] for row in measures["grpo"]] == [1, 2, 3]
    assert all(row["sync"] < 0.05 for row in measures["grpo"])
    assert "| shape |" in (tmp_path / "gpu.md").read_text()


def test_what_does_not_fit_into_the_time_is_named(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--tiny",
        "--seconds",
        "0",
        "--only",
        "optimizer",
        "--out",
        str(tmp_path / "gpu"),
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    rows = json.loads((tmp_path / "gpu.json").read_text())["measures"]["optimizer"]
    assert {row["not run"] for row in rows} == {"out of time"}
