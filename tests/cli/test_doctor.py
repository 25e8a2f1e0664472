"""`rollhouse doctor` names what is there, what is missing and what to do, and keeps secrets to itself."""

import json
import os
import subprocess
import sys
from pathlib import Path


def doctor(hide: str = "", **environment: str) -> subprocess.CompletedProcess:
    """The command in a fresh interpreter in which the distribution `hide` is not installed."""
    code = (
        "import importlib.metadata as m\n"
        "find = m.version\n"
        "def version(name):\n"
        f"    if name == {hide!r}: raise m.PackageNotFoundError(name)\n"
        "    return find(name)\n"
        "m.version = version\n"
        "from rollhouse.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "doctor", "--format", "json"]
    # Without a proxy or a hub nothing answers; the check reports it within its time limit.
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment}
    )


def test_everything_is_reported_at_once() -> None:
    done = doctor(HF_HUB_OFFLINE="1", WANDB_API_KEY="s3cret")
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    wanted = {
        "Python",
        "torch",
        "GPU",
        "vLLM",
        "ray",
        "Ray cluster",
        "Disk",
        "Model hub",
        "Weights & Biases",
        "bfcl-eval",
        "math-verify",
        "Sandbox",
        "mcp",
    }
    assert wanted <= found.keys()
    assert found["torch"]["state"] == found["vLLM"]["state"] == "ok"
    assert "offline" in found["Model hub"]["found"]
    assert "s3cret" not in done.stdout + done.stderr


def test_a_missing_part_comes_with_its_installation_and_exit_code_1() -> None:
    done = doctor(hide="vllm", HF_HUB_OFFLINE="1")
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["vLLM"]["state"] == "missing" and "make setup" in found["vLLM"]["fix"]


def test_a_wandb_key_in_netrc_counts_as_training_counts_it(tmp_path: Path) -> None:
    bare = {"HF_HUB_OFFLINE": "1", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": ""}
    states = []
    for text in ("", "machine api.wandb.ai login user password s3cret"):
        (tmp_path / ".netrc").write_text(text)
        (tmp_path / ".netrc").chmod(0o600)
        done = doctor(**bare)
        states.append(next(row["state"] for row in json.loads(done.stdout) if row["name"] == "Weights & Biases"))
        assert "s3cret" not in done.stdout + done.stderr
    assert states == ["note", "ok"]


def test_a_ray_cluster_elsewhere_is_named() -> None:
    done = doctor(HF_HUB_OFFLINE="1", RAY_ADDRESS="127.0.0.1:6380")
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert found["Ray cluster"]["state"] == "note" and "127.0.0.1:6380" in found["Ray cluster"]["found"]
