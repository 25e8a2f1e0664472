"""Two Ray nodes on one machine, joined as a run on several machines joins them: placement, and weights that reach both."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.system


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a process that finds the cluster: a head at 127.0.0.1 and a second node at 127.0.0.2."""
    base = Path("/tmp") / f"rh-two-{os.getpid()}"  # short: Ray puts sockets there
    base.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(base),
        "RAY_AUTH_MODE": "token",
        "RAY_worker_niceness": "0",
    }
    ray = str(Path(sys.executable).with_name("ray"))
    head = f"127.0.0.1:{free_port()}"
    shared = ["--num-cpus=6", "--object-store-memory=100000000", "--block", "--disable-usage-stats"]
    first = ["--head", f"--port={head.rpartition(':')[2]}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={base}/a"]  # fmt: skip
    second = [f"--address={head}", "--node-ip-address=127.0.0.2"]
    processes = []
    try:
        for arguments in (first, second):
            with open(base / f"node{len(processes)}.log", "w") as log:
                processes.append(subprocess.Popen([ray, "start", *arguments, *shared], env=env, stdout=log, stderr=log))
            wait_for(head, processes[-1], base)
        yield env | {"RAY_ADDRESS": head}
    finally:
        children = [child for one in processes for child in psutil.Process(one.pid).children(recursive=True)]
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)
        _, alive = psutil.wait_procs(children, timeout=30)
        for process in alive:
            process.kill()
        subprocess.run(["rm", "-rf", str(base)], check=True)


def wait_for(address: str, process: subprocess.Popen, base: Path) -> None:
    host, _, port = address.partition(":")
    for _ in range(600):
        assert process.poll() is None, "".join(file.read_text() for file in base.glob("*.log"))
        with socket.socket() as trial:
            if trial.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing answers at {address}")


def test_two_engines_and_two_ranks_on_two_nodes(two_nodes: dict[str, str], tiny_base: Path) -> None:
    driver = Path(__file__).with_name("two_nodes.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tiny_base)], env=two_nodes, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kind"] == "object_store"
    assert len(set(found["engine_nodes"])) == len(set(found["learner_nodes"])) == 2
    assert found["engine_nodes"] == found["learner_nodes"] == found["nodes_after"], "engine i is where rank i is"
    assert max(found["gaps"]) < 1e-4 and len(found["gaps"]) == 4
    assert found["after_kill"] < 1e-4 and found["restarts"] == 1
    assert len(found["scores"]) == 3
