"""examples/slurm/grpo.sbatch as a job of a real Slurm: a controller on this machine, and two hosts of tests/hosts.py as its nodes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..hosts import SUBNET, Host, two_hosts, why_none

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "grpo.sbatch"
VENV = Path(sys.executable).parent.parent


def missing() -> str | None:
    """Why there is no Slurm here."""
    programs = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    return f"there is no program {programs[0]}" if programs else why_none()


pytestmark = [pytest.mark.system, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

CONFIG = """
ClusterName=rollhouse
SlurmctldHost={controller}({subnet}.254)
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/linear
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=rh1 NodeAddr={subnet}.1 CPUs=6 RealMemory=4000
NodeName=rh2 NodeAddr={subnet}.2 CPUs=6 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES State=UP
"""


@dataclass
class Slurm:
    """A running cluster: its nodes and the environment of its clients."""

    folder: Path
    hosts: list[Host]
    env: dict[str, str]

    def call(self, *words: str) -> str:
        """A command of Slurm's."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *arguments: str) -> int:
        """The number of a new job of the script."""
        options = ["--parsable", "--gpus-per-node=0", f"--output={self.folder}/job-%j.log"]
        return int(self.call("sbatch", *options, str(SCRIPT), *arguments))

    def log(self, job: int) -> str:
        """What the job has printed."""
        path = self.folder / f"job-{job}.log"
        return path.read_text() if path.exists() else ""

    def wait_for_text(self, job: int, text: str, timeout: float = 600) -> None:
        """Until the job has printed `text`."""
        end = time.monotonic() + timeout
        while text not in self.log(job):
            assert time.monotonic() < end, self.log(job)[-5000:]
            time.sleep(0.2)

    def wait(self, job: int, timeout: float = 600) -> str:
        """The state in which a job ended."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            shown = self.call("scontrol", "show", "job", str(job))
            state = shown.partition("JobState=")[2].split()[0]
            if state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
                return state
            time.sleep(0.5)
        raise AssertionError(self.log(job)[-5000:])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, subnet=SUBNET, controller=socket.gethostname()))
    (folder / "state").mkdir()
    (folder / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    env = kept | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "ROLLHOUSE_VENV": str(VENV),
        "HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    with two_hosts(folder) as hosts, ExitStack() as opened:
        daemons = [subprocess.Popen(["slurmctld", "-D", "-L", f"{folder}/slurmctld.log"], env=env)]
        for host in hosts:
            words = ["slurmd", "-D", "-N", host.name, "-L", f"{folder}/slurmd-{host.name}.log"]
            daemons.append(host.start(words, folder / f"{host.name}.log", env=env))
        for daemon in daemons:
            opened.callback(daemon.wait, 60)
            opened.callback(daemon.terminate)
        found = Slurm(folder, hosts, env)
        for _ in range(240):
            ready = subprocess.run(["sinfo", "-h", "-o", "%D %t"], env=env, capture_output=True, text=True, check=False)
            if ready.stdout.split() == ["2", "idle"]:
                break
            time.sleep(0.5)
        else:
            raise AssertionError("\n".join(file.read_text()[-2000:] for file in folder.glob("*.log")))
        yield found


def test_a_job_on_both_nodes_is_interrupted_and_goes_on(slurm: Slurm, tiny_base: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    rollhouse = [str(Path(sys.executable).with_name("rollhouse"))]
    play = ["collect", "--env", "workplace-mini", "--mistake-rate", "0.5", "--limit", "8", "--num-repeats", "4", "--run", "logs", "--snapshot", "s1"]  # fmt: skip
    for words in (play, ["dataset", "build", "grpo", "prompts", "--from", "s1"]):
        subprocess.run([*rollhouse, *words, "--store", str(store)], check=True, capture_output=True, timeout=300)
    size = ["grpo.max_num_steps=3", "grpo.num_prompts_per_step=3", "grpo.num_generations_per_prompt=4"]
    spread = ["cluster.learner_ranks=2", "policy.generation.vllm.data_parallel_size=2"]
    where = [f"policy.model_name={tiny_base}", "--run", "office", "--dataset", "prompts", "--store", str(store)]
    line = ["--config", "tiny-grpo", *where, *size, *spread]

    first = slurm.submit(*line)
    slurm.wait_for_text(first, "grpo 1/3")
    slurm.call("scancel", "--batch", "--signal=INT", str(first))  # what --signal=B:INT@120 sends before the time limit
    assert slurm.wait(first) != "COMPLETED"
    second = slurm.submit(*line)
    assert slurm.wait(second) == "COMPLETED", slurm.log(second)[-5000:]

    def sql(query: str) -> list[dict]:
        words = [*rollhouse, "sql", query, "--format", "json", "--store", str(store)]
        return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout)

    assert sql("select count(*) n, count(distinct rollout_id) d from rollouts where run_id = 'office'") == [{"n": 36, "d": 36}]  # fmt: skip
    (gap,) = sql("select max(value) v from metrics where run_id = 'office' and name = 'mismatch/sync_max_abs'")
    assert gap["v"] < 1e-3
    assert (store / "checkpoints" / "office" / "step_3").is_dir()
