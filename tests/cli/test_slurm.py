"""The Slurm script: the commands that it passes to a recording `srun` (there is no Slurm here), parsed by their programs."""

import subprocess
import sys
from pathlib import Path

import yaml

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "grpo.sbatch"


def started(tmp_path: Path, *arguments: str, **env: str) -> list[str]:
    """The words that the script hands to srun, options of srun included."""
    expected = tmp_path / "expected"
    shims = {"scontrol": "printf 'one\\ntwo\\n'", "srun": f"printf '%s\\n' \"$@\" > {expected}", "ray": "true"}
    for name, does in shims.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "41234", "SLURM_GPUS_ON_NODE": "8"}
    path = f"{tmp_path}:/usr/bin:/bin"
    subprocess.run(["bash", str(SCRIPT), *arguments], env=job | env | {"PATH": path}, check=True, timeout=60)
    return expected.read_text().splitlines()


def test_the_command_line_is_rays_and_ours(tmp_path: Path) -> None:
    words = started(tmp_path, "--config", "workplace-grpo-qwen3-4b", "--dataset", "a set", "--run", "office")
    ray, ours = words[words.index("ray") : words.index("--")], words[words.index("rollhouse") :]
    assert ray[:2] == ["ray", "symmetric-run"]
    assert ray[2:6] == ["--address", "one:21234", "--min-nodes", "2"] and ray[-2:] == ["--num-gpus", "8"]

    dry = [str(Path(sys.executable).with_name(ours[0])), *ours[1:], "--dry-run"]
    done = subprocess.run(dry, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)
    assert resolved["cluster"]["num_nodes"] == 2 and resolved["ray"]["address"] == "auto"
    assert (resolved["dataset"], resolved["run"]) == ("a set", "office")


def test_it_ends_as_its_run_did(tmp_path: Path) -> None:
    started(tmp_path, "--config", "tiny-grpo")
    (tmp_path / "srun").write_text("#!/bin/bash\nexit 2\n")
    job = {"SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert subprocess.run(["bash", str(SCRIPT)], env=job, timeout=60, check=False).returncode == 2
    assert subprocess.run(["bash", str(SCRIPT)], capture_output=True, timeout=60, check=False).returncode == 1
