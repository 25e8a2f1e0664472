"""Two hosts on this machine: network, process, name and shared-memory namespaces of their own, joined by a bridge. Needs root."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SUBNET = "10.77.3"


@dataclass(frozen=True)
class Host:
    """One of them. Its first process is `init`; when that ends, all of them do."""

    name: str
    address: str
    init: int

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line that runs `words` there."""
        return ["nsenter", f"--target={self.init}", "--uts", "--pid", "--mount", "--ipc", "--net", *words]

    def start(self, words: Sequence[str], log: Path, **options: Any) -> subprocess.Popen:
        """Starts a process there, its output in `log`."""
        with open(log, "w") as file:
            return subprocess.Popen(self.command(words), stdout=file, stderr=file, **options)

    def run(self, words: Sequence[str], timeout: float, **options: Any) -> subprocess.CompletedProcess:
        """Runs a command there to its end."""
        return subprocess.run(
            self.command(words), capture_output=True, text=True, timeout=timeout, check=False, **options
        )

    def lose(self) -> None:
        """Ends all of its processes at once, as a power cut does."""
        psutil.Process(self.init).kill()


def why_none() -> str | None:
    """Why there can be no hosts here, None where there can."""
    missing = [program for program in ("ip", "unshare", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"there is no program {missing[0]}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = subprocess.run(
        ["unshare", "--net", "--uts", "--pid", "--mount", "--ipc", "--fork", "true"], capture_output=True, check=False
    )
    return None if probe.returncode == 0 else "this machine allows no namespaces"


@contextmanager
def two_hosts(folder: Path, wired: bool = True) -> Iterator[list[Host]]:
    """The hosts rh1 and rh2, with the machine itself at SUBNET.254; names resolve on all but the machine.

    Without `wired` they have no network but loopback.
    """
    bridge = f"rhb{os.getpid() % 100_000}"
    names = {f"rh{number}": f"{SUBNET}.{number}" for number in (1, 2)}
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    inits: list[subprocess.Popen] = []
    try:
        if wired:
            ip("link", "add", bridge, "type", "bridge")
            ip("addr", "add", f"{SUBNET}.254/24", "dev", bridge)
            ip("link", "set", bridge, "up")
        hosts = []
        for name, address in names.items():
            inits.append(_first_process(name, folder))
            (inner,) = psutil.Process(inits[-1].pid).children()
            hosts.append(Host(name, address, inner.pid))
            if wired:
                _wire(hosts[-1], bridge)
        yield hosts
    finally:
        for init in inits:
            for child in psutil.Process(init.pid).children():
                child.kill()
            init.wait(60)
        if wired:
            subprocess.run(["ip", "link", "del", bridge], check=False)


INIT = """
hostname "$0"
ip link set lo up
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray
mount --bind "$1/hosts" /etc/hosts
echo ready
exec >/dev/null
while :; do sleep 1000 & wait; done
"""


def _first_process(name: str, folder: Path) -> subprocess.Popen:
    """The process whose only child is the first one of the host."""
    namespaces = ["--net", "--uts", "--pid", "--mount", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    words = ["unshare", *namespaces, "bash", "-c", INIT, name, str(folder)]
    init = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert init.stdout is not None and init.stdout.readline() == "ready\n"
    return init


def _wire(host: Host, bridge: str) -> None:
    """Joins a host to the bridge."""
    here = f"{bridge}{host.name[-1]}"
    ip("link", "add", here, "type", "veth", "peer", "name", f"{here}p", "netns", str(host.init))
    ip("link", "set", here, "master", bridge, "up")
    address(host, f"{here}p")


def address(host: Host, device: str) -> None:
    """Gives a network device of the host its address there."""
    for words in (["addr", "add", f"{host.address}/24", "dev", device], ["link", "set", device, "up"]):
        done = host.run(["ip", *words], 60)
        assert done.returncode == 0, done.stderr
    # Ray finds its own address by the route to this one, and waits for long where there is none.
    host.run(["ip", "route", "add", "8.8.8.8", "via", f"{SUBNET}.254"], 60)


def ip(*words: str) -> None:
    """Runs ip of iproute2."""
    subprocess.run(["ip", *words], check=True, timeout=60)
