"""The Ray cluster: a local one that is started when needed and ended afterwards, or a running one that is named."""

import atexit
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError, EngineError, RollhouseError
from ...base.packages import need
from .folders import owned_folder
from .reaper import MARK

NAMESPACE = "rollhouse"
_OBJECT_STORE_BYTES = 256 * 2**20
_PREFIX = "rh-ray-"
# A socket's path has at most 107 bytes; below the folder for temporary files Ray's longest is this one.
_LONGEST_SOCKET = f"/{_PREFIX}12345678/r/session_2026-01-31_12-00-00_123456_4194304/sockets/plasma_store"
_MAX_TEMP_DIR = 107 - len(_LONGEST_SOCKET)
_ours: tuple[Path, Any, subprocess.Popen] | None = (
    None  # of the cluster we started: its folder, the lock on it, its reaper
)
_joined = False


def ensure_ray(
    num_cpus: int | None = None, address: str | None = None, num_nodes: int = 1, wait_s: float = 300
) -> bool:
    """A Ray cluster for this process: the one it has, else the one at `address`, else one that is started on this machine.

    Returns whether the caller is to end it with shutdown_ray: it ends one that was started, and only leaves one that was joined.

    Args:
        num_cpus: Of a cluster that is started, logical; None is the machine's, at least 4.
        address: Of a cluster that runs already: `host:port`, or `auto` for RAY_ADDRESS or that of a `ray start` on this machine.
        num_nodes: Machines to wait for, `wait_s` seconds at most.

    Raises MissingExtra without ray; ConfigError where no cluster answers at the address, or none is given and one is configured or running on
    this machine already; EngineError when Ray does not start or too few machines have joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # Ray's default of 15 starves engine and learner on a busy machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = need("ray")
    began = False
    if not ray.is_initialized():
        if address is None and num_nodes > 1:
            raise ConfigError(
                f"{num_nodes} machines are requested, but no cluster is named.",
                "Start one (`ray start`, or examples/slurm) and set ray.address=auto, or leave cluster.num_nodes at 1.",
            )
        _start(ray, num_cpus) if address is None else _join(ray, address)
        began = True
    try:
        _wait_for_nodes(ray, num_nodes, wait_s)
    except BaseException:
        if began:
            shutdown_ray()
        raise
    return began


def _start(ray: Any, num_cpus: int | None) -> None:
    global _ours
    address = running_cluster()
    if address:
        raise ConfigError(
            f"Another Ray cluster is already there: {address}.",
            "Set ray.address=auto to use it. Otherwise unset RAY_ADDRESS, or end that cluster with `ray stop`; rollhouse starts its own and leaves others alone.",
        )
    folder, lock = owned_folder(_PREFIX, _folder_for_ray())
    reaper = [sys.executable, "-S", str(Path(__file__).with_name("reaper.py")), folder.name, str(folder)]
    process = subprocess.Popen(reaper, stdin=subprocess.PIPE, start_new_session=True)
    _ours = folder, lock, process
    with _environment(MARK, folder.name), _loopback_only(ray), _own_token(folder):
        _init(
            ray,
            address="local",
            num_cpus=num_cpus or max(4, os.cpu_count() or 4),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            # Ray opens its folder to every user; what it lies in is this user's alone.
            _temp_dir=str(folder / "r"),
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # without a reaper Ray goes on as well
        process.stdin.write(b"look\n")
        process.stdin.flush()


def _folder_for_ray() -> Path:
    """Where Ray's folder is made: that for temporary files, or /tmp where its path is too long for sockets."""
    base = tempfile.gettempdir()
    return Path(base if len(os.fsencode(base)) <= _MAX_TEMP_DIR else "/tmp")


@contextmanager
def _own_token(folder: Path) -> Iterator[None]:
    """A token of the cluster's own in its folder, for this user alone. Ray would write one to ~/.ray that every user can read."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        yield
        return
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    with _environment("RAY_AUTH_TOKEN_PATH", str(token)):
        _forget_token()
        yield


def _forget_token() -> None:
    """Lets Ray look for a token again; it keeps the first that it found. Versions without tokens have nothing to forget."""
    import ray._raylet as raylet

    loader = getattr(raylet, "AuthenticationTokenLoader", None)
    if loader is not None:
        loader.instance().reset_cache()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable for what is started within the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _loopback_only(ray: Any) -> Iterator[None]:
    """Ray replaces 127.0.0.1 by an address that others reach, and listens on all, unless this is off; what it starts keeps what it finds."""
    constants = ray._private.ray_constants
    was = getattr(constants, "ENABLE_RAY_CLUSTER", None)  # read from the environment when Ray was imported
    constants.ENABLE_RAY_CLUSTER = False
    try:
        with _environment("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"):
            yield
    finally:
        constants.ENABLE_RAY_CLUSTER = was


def _join(ray: Any, address: str) -> None:
    global _joined
    found = running_cluster() if address == "auto" else address
    if found is None:
        raise ConfigError(
            "ray.address is auto, but no Ray cluster runs on this machine.",
            "Start one with `ray start --head`, give its host:port, or leave ray.address out.",
        )
    if address != "auto" and not _answers(address.removeprefix("ray://")):
        raise ConfigError(
            f"No Ray cluster answers at {address}.",
            "Look with `ray status --address …`; ray.address is the host:port that `ray start --head` names.",
        )
    _joined = True
    _init(ray, address=address if address == "auto" else found)


def _init(ray: Any, **options: Any) -> None:
    atexit.register(shutdown_ray)
    try:
        with warnings.catch_warnings(), _own_sigterm():
            # Ray starts its processes by fork and exec at once, which Lance's threads do not mind.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
    except BaseException as error:
        shutdown_ray()
        if isinstance(error, Exception):
            what = "Ray did not start" if options["address"] == "local" else f"The Ray cluster at {options['address']} was not joined"  # fmt: skip
            raise EngineError(f"{what}: {error}.", "`rollhouse doctor` shows what this machine lacks.") from error
        raise


def _wait_for_nodes(ray: Any, num_nodes: int, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while (alive := sum(node["Alive"] for node in ray.nodes())) < num_nodes:
        if time.monotonic() > end:
            raise EngineError(
                f"{alive} of {num_nodes} machines are in the Ray cluster after {wait_s:g} s.",
                "Look with `ray status` which are missing; cluster.num_nodes and cluster.wait_s say how many and how long.",
            )
        time.sleep(0.2)


def shutdown_ray() -> None:
    """Ends the cluster that ensure_ray started and removes its files, or leaves the one it joined; another's is left alone. May be called twice."""
    global _ours, _joined
    if _ours is None and not _joined:
        return
    ours, _ours, _joined = _ours, None, False
    atexit.unregister(shutdown_ray)
    import ray

    ray.shutdown()
    if ours is not None:
        folder, lock, reaper = ours
        reaper.communicate()  # it ends when its input does, and with it what Ray was slow to end
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
        _forget_token()


def call(reference: Any, timeout_s: float, gone: Callable[[str], RollhouseError]) -> Any:
    """The value of a Ray call; see `our_error` for what it raises."""
    import ray

    try:
        return ray.get(reference, timeout=timeout_s)
    except Exception as error:
        raise our_error(error, gone) from error


def our_error(error: Exception, gone: Callable[[str], RollhouseError]) -> RollhouseError:
    """An error of a Ray call in our words: the actor's own where it raised one of ours, else `gone` of a short reason."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, RollhouseError):
        return type(cause)(cause.message, cause.fix)
    if "worker process has died" in str(error):
        return gone("it was killed or crashed, often for want of memory")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return gone(lines[-1].rstrip(".") if lines else type(error).__name__)


def require_resources(who: str, fix: str, *, cpus: float = 1, gpus: float = 0, wait_s: float = 15) -> None:
    """Raises EngineError when the cluster cannot place an actor; Ray itself would wait for ever.

    Resources of an actor that just ended are freed a little later, so a cluster that is large enough is checked for `wait_s` seconds.
    """
    import ray

    wanted = {name: number for name, number in (("CPU", cpus), ("GPU", gpus)) if number}
    total, end = ray.cluster_resources(), time.monotonic() + wait_s
    while True:
        free = ray.available_resources()
        lacking = [name for name, number in wanted.items() if free.get(name, 0) < number]
        if not lacking:
            return
        if time.monotonic() > end or any(total.get(name, 0) < wanted[name] for name in lacking):
            name = lacking[0]
            raise EngineError(
                f"There is no {name} for {who}: it needs {wanted[name]:g}, {free.get(name, 0):g} of {total.get(name, 0):g} are free.",
                fix,
            )
        time.sleep(0.2)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps this process's way to end on SIGTERM, which ray.init replaces by leaving at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before not in (None, signal.SIG_DFL):  # with the default, nothing would end Ray's processes
            signal.signal(signal.SIGTERM, before)


def running_cluster() -> str | None:
    """Another Ray cluster's address and where it is named: in RAY_ADDRESS, or in the note of a `ray start` if it answers."""
    if address := os.environ.get("RAY_ADDRESS"):
        return f"{address} (RAY_ADDRESS)"
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        address = note.read_text().strip()
    except OSError:
        return None
    return f"{address} ({note})" if _answers(address) else None


def _answers(address: str) -> bool:
    import socket

    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except (OSError, ValueError):
        return False
