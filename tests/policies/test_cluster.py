"""The Ray cluster: joined when configured, waited for, and ended with the driver that started it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from rollhouse.base.errors import ConfigError, EngineError
from rollhouse.policies.engines import cluster, reaper
from rollhouse.policies.engines.folders import owned_folder, remove_left_behind
from rollhouse.policies.engines.placement import bundle_of, place


def gone(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Those that are still there after so long."""
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_cluster_that_is_not_there_is_not_joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # the suite's own cluster is not this one
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="auto, but no Ray cluster"):
        cluster.ensure_ray(address="auto")
    with pytest.raises(ConfigError, match=r"No Ray cluster answers at 127.0.0.1:1\."):
        cluster.ensure_ray(address="127.0.0.1:1")
    with pytest.raises(ConfigError, match="2 machines are requested, but no cluster"):
        cluster.ensure_ray(num_nodes=2)


def test_too_few_machines_are_counted(ray_session: None) -> None:
    with pytest.raises(EngineError, match=r"1 of 3 machines .* after 0.1 s"):
        cluster.ensure_ray(num_nodes=3, wait_s=0.1)
    assert cluster.ensure_ray(num_nodes=1) is False


def test_engines_and_ranks_get_bundles_or_are_told_that_there_is_no_room(ray_session: None) -> None:
    import ray

    placement = place(1, 1)
    try:
        assert (len(placement.engines), len(placement.learners)) == (1, 1)
        where: Any = ray.remote(lambda: ray.get_runtime_context().get_placement_group_id())
        found = ray.get([where.options(**options).remote() for options in placement.engines + placement.learners])
        assert found == [placement.group.id.hex()] * 2
    finally:
        placement.close()
    with pytest.raises(EngineError, match="Not enough resources for 1 engines and 99 learner ranks"):
        place(1, 99, wait_s=0.5)
    with pytest.raises(EngineError, match="Not enough resources"):
        place(1, 1, engine_gpus=1, learner_gpus=1, wait_s=0.5)


def test_no_two_learner_ranks_get_one_gpu() -> None:
    assert bundle_of(0.5, 0.5, 2, True) == {"CPU": 2, "GPU": 1}, "an engine and a rank share one"
    assert bundle_of(0, 0.5, 1, True) == {"CPU": 1, "GPU": 1}, "a rank without an engine shares none"
    assert bundle_of(2, 1, 2, True) == {"CPU": 2, "GPU": 3}
    assert bundle_of(0.5, 0, 1, False) == {"CPU": 1, "GPU": 0.5}, "engines of a learner on a CPU may"
    assert bundle_of(0, 0, 1, False) == {"CPU": 1}


def test_folders_without_an_owner_are_removed(tmp_path: Path) -> None:
    mine, lock = owned_folder("test-", tmp_path)
    (tmp_path / "test-left").mkdir()
    (tmp_path / "test-left" / "owner").touch()
    (tmp_path / "test-anothers").mkdir()
    assert remove_left_behind("test-", tmp_path) == [tmp_path / "test-left"]
    assert mine.exists() and (tmp_path / "test-anothers").exists()
    lock.close()
    assert remove_left_behind("test-", tmp_path) == [mine]


STARTED = """
import json, os, sys
from pathlib import Path
from rollhouse.policies.engines import cluster
cluster.ensure_ray()
import ray
answer = ray.get(ray.remote(lambda: 6 * 7).remote())
(folder,) = Path(os.environ["TMPDIR"]).glob("rh-ray-*")
print(json.dumps([answer, {str(path.relative_to(folder)): path.lstat().st_mode & 0o777 for path in (folder, *folder.iterdir())}]))
cluster.shutdown_ray()
"""


def test_a_long_folder_for_temporary_files_is_not_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, used in ((25, True), (26, False), (90, False)):
        monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * (length - 1))
        assert (cluster._folder_for_ray() == Path(tempfile.gettempdir())) is used
    assert len("/" + "t" * 24 + cluster._LONGEST_SOCKET) == 107, "the most that Linux takes"


@pytest.mark.system
def test_a_cluster_is_this_users_alone(tmp_path: Path) -> None:
    """Real sockets at the longest path, and nothing of Ray, its token least of all, where another user can read it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        base = Path(short) / ("t" * (24 - len(short)))
        base.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"TMPDIR": str(base), "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", STARTED], env=environment, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        answer, modes = json.loads(done.stdout.splitlines()[-1])
        assert answer == 42 and len(str(base)) == 25 and modes["."] == 0o700 and modes["token"] == 0o600
        assert not list(tmp_path.rglob("auth_token")) and not list(base.iterdir())


@pytest.mark.system
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_driver_that_is_killed(tiny_base: Path, how: signal.Signals) -> None:
    driver = Path(__file__).with_name("driver.py")
    process = subprocess.Popen([sys.executable, str(driver), str(tiny_base)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready ")
    started = psutil.Process(process.pid).children(recursive=True)
    names = " ".join(" ".join(one.cmdline()) for one in started)
    assert "EngineActor" in names and "_Rank" in names and "gcs_server" in names
    listens = [c.laddr.ip for one in started for c in one.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listens and set(listens) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, "the cluster listens on loopback only"
    folder = Path(line.split(maxsplit=1)[1].strip())
    assert folder.exists()
    os.kill(process.pid, how)
    process.wait(60)
    left = gone(started, 20)
    assert not left, [one.cmdline() for one in left]
    if how == signal.SIGKILL:
        assert folder in remove_left_behind("rollhouse-weights-", folder.parent), "the next run removes it"
    assert not folder.exists()


def test_the_reaper_knows_those_that_wrote_over_their_environment(tmp_path: Path) -> None:
    folder = tmp_path / "rh-ray-made-up"
    folder.mkdir()
    inner = "import time; print('up', flush=True); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {inner!r}], env={{}})"
    environment = os.environ | {reaper.MARK: folder.name}
    parent = subprocess.Popen([sys.executable, "-S", "-c", outer], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "up\n"
    (child,) = psutil.Process(parent.pid).children()
    known = reaper.marked(folder.name)
    assert {parent.pid, child.pid} <= set(known)
    driver = subprocess.Popen([sys.executable, "-S", reaper.__file__, folder.name, str(folder)], stdin=subprocess.PIPE)
    assert driver.stdin is not None
    driver.stdin.write(b"look\n")
    driver.stdin.flush()
    assert reaper.living(known) == known, "nothing is ended as long as there is input"
    driver.communicate(timeout=60)
    parent.wait(60)
    assert not gone([child], 20) and not folder.exists()
    assert not reaper.living(known) and not reaper.marked(folder.name)
