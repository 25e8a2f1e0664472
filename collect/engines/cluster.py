"""Our own Ray cluster: started on this machine when it is needed, gone when it is not, and never anybody else's."""

import atexit
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path

from ...store.errors import ConfigError, EngineError
from ..models import need

NAMESPACE = "rollhouse"
_OBJECT_STORE_BYTES = 256 * 2**20
_MAX_TEMP_DIR = 40  # Ray puts sockets there, and a socket's path may not be longer than 107 bytes
_ours: Path | None = None


def ensure_ray(num_cpus: int = 4) -> bool:
    """Starts a Ray cluster for this process, unless one is initialised in it already. `num_cpus` is logical.

    Returns whether it started one, which its caller then ends with shutdown_ray.
    Raises MissingExtra without ray, ConfigError where another cluster is configured or running on this machine.
    """
    global _ours
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # Ray's default of 15 starves engine and learner on a busy machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = need("ray")
    if ray.is_initialized():
        return False
    address = running_cluster()
    if address:
        raise ConfigError(
            f"Another Ray cluster is already there: {address}.",
            "Unset RAY_ADDRESS, or end that cluster with `ray stop`; rollhouse starts its own and leaves others alone.",
        )
    base = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _MAX_TEMP_DIR else "/tmp"
    _ours = Path(tempfile.mkdtemp(prefix="rh-ray-", dir=base))
    atexit.register(shutdown_ray)
    try:
        with warnings.catch_warnings():
            # Ray starts its processes by fork and exec at once, which Lance's threads do not mind.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(_ours),
            )
    except BaseException as error:
        shutdown_ray()
        if isinstance(error, Exception):
            raise EngineError(
                f"Ray did not start: {error}.", "`rollhouse doctor` shows what this machine lacks."
            ) from error
        raise
    return True


def shutdown_ray() -> None:
    """Ends the cluster that ensure_ray started and removes its files; another's is left alone. May be called twice."""
    global _ours
    if _ours is None:
        return
    folder, _ours = _ours, None
    atexit.unregister(shutdown_ray)
    import ray

    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


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
