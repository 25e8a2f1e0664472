"""Programs in a sandbox that try to get out, to see more than their folder, to use more than they may, or to stay."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.base.worker_process import descendants
from rollhouse.environments.python_sandbox import box as box_module
from rollhouse.environments.python_sandbox import syscalls
from rollhouse.environments.python_sandbox.box import Sandbox, SandboxEnded, require_isolation
from rollhouse.environments.python_sandbox.limits import SandboxLimits
from rollhouse.environments.python_sandbox.syscalls import filter_program

LIMITS = SandboxLimits(seconds=20, memory_mb=256, processes=24, files_mb=4, files=200)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    try:
        require_isolation()
    except ConfigError as error:
        pytest.skip(error.message)
    opened = Sandbox(LIMITS)
    yield opened
    opened.close()


def shell(box: Sandbox, command: str) -> str:
    return box.run(["/bin/sh", "-c", command])["output"]


def python(box: Sandbox, code: str) -> str:
    return box.run([box_module.python(), "-c", code])["output"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_files_of_the_machine_are_not_there(box: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("treasure")
    for path in (str(secret), "/etc/shadow", "/etc/hostname", str(Path(__file__)), f"/proc/self/root{secret}"):
        with pytest.raises(ValueError):
            box.read_file(path)
    assert "treasure" not in shell(box, f"cat {secret} ../../..{secret} /proc/1/root{secret} 2>&1")
    found = shell(box, "for place in / /usr /opt /proc; do touch $place/x && echo wrote $place; done 2>/dev/null; ls -A /etc")  # fmt: skip
    assert "wrote" not in found and set(found.split()) <= {"passwd", "group", "ld.so.cache", "alternatives"}


def test_links_lead_nowhere_else(box: Sandbox, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("untouched")
    shell(box, f"ln -s {outside} link; ln -s / root; ln -s /dev/zero endless; mkfifo pipe")
    for path in ("link", f"root{outside}", "endless", "pipe", "."):
        with pytest.raises(ValueError):
            box.read_file(path)
    with pytest.raises(ValueError):
        box.write_file("link", "changed")
    assert outside.read_text() == "untouched"
    assert not {"link", "root", "endless", "pipe"} & box.take_files().keys()
    shell(box, "rm link root endless pipe")


def test_there_is_no_network(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0rollhouse-sandbox-test")
        abstract.listen()
        tried = python(
            box,
            "import socket\n"
            f"for family, place in ((2, ('127.0.0.1', {server.getsockname()[1]})), (2, ('10.0.0.1', 80)), (1, '\\0rollhouse-sandbox-test')):\n"
            "    try:\n        socket.socket(family).connect(place); print('connected')\n    except OSError as error:\n        print('refused')",
        )
    assert tried.split() == ["refused"] * 3


def test_other_processes_are_not_seen_and_the_first_one_is_safe(box: Sandbox) -> None:
    seen = shell(box, "ls /proc | grep -c '^[0-9]'")
    assert int(seen) < 10
    tried = shell(box, "kill -9 1; kill -STOP 1; cat /proc/1/environ /proc/1/mem /proc/1/cmdline; ls /proc/1/fd; echo 1 > /proc/sys/kernel/panic")  # fmt: skip
    assert "PATH" not in tried
    attach = python(box, "import ctypes\nprint(ctypes.CDLL(None).ptrace(16, 1, 0, 0))")
    assert attach.strip() == "-1"
    assert shell(box, "echo still here").strip() == "still here"


def test_no_capability_can_be_gained(box: Sandbox) -> None:
    found = shell(
        box, "grep -E 'Cap(Eff|Prm|Bnd)' /proc/self/status | cut -f2; unshare -Ur id; mount -t tmpfs x /work; su; id -u"
    )
    lines = [line for line in found.splitlines() if line]
    assert lines[:3] == ["0" * 16] * 3 and lines[-1] == "1000" and "uid=0" not in found


def test_forks_are_bounded_and_end(box: Sandbox) -> None:
    bomb = "import os\nn = 0\ntry:\n    while True:\n        if not os.fork():\n            import time; time.sleep(60)\n        n += 1\nexcept OSError:\n    print(n)"
    assert int(python(box, bomb)) < LIMITS.processes
    found = box.run(["/bin/sh", "-c", "f() { f | f & }; f; echo"])
    assert found["stopped"] is None or found["stopped"] == "time"
    assert int(shell(box, "ls /proc | grep -c '^[0-9]'")) < 10


def test_memory_is_bounded_for_one_and_for_all(box: Sandbox) -> None:
    assert "MemoryError" in python(box, "held = []\nwhile True: held.append(bytearray(1 << 20))")
    many = "import os, time\nfor _ in range(3):\n    if not os.fork(): break\nheld = b'x' * (100 << 20)\ntime.sleep(60)"
    assert box.run([box_module.python(), "-c", many])["stopped"] == "memory"
    assert shell(box, "echo goes on").strip() == "goes on"


def test_shared_memory_is_counted_and_cannot_be_hidden(box: Sandbox) -> None:
    let_go = "import mmap, os, time\nfor _ in range(4):\n    held = mmap.mmap(-1, 80 << 20)\n    held.write(bytes(80 << 20))\n    if not os.fork(): time.sleep(60)\n    held.close()\ntime.sleep(60)"
    assert box.run([box_module.python(), "-c", let_go])["stopped"] == "memory"
    device = "import mmap, os, time\nfor _ in range(4):\n    held = mmap.mmap(os.open('/dev/zero', os.O_RDWR), 80 << 20)\n    held[:] = bytes(80 << 20)\n    if not os.fork(): time.sleep(60)\n    held.close()\ntime.sleep(60)"
    assert box.run([box_module.python(), "-c", device])["stopped"] == "memory"
    hidden = "import ctypes, time\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\ntime.sleep(60)"
    assert box.run([box_module.python(), "-c", hidden])["stopped"] == "memory"
    shared = "import mmap, os\nheld = mmap.mmap(-1, 80 << 20)\nfor _ in range(4):\n    if not os.fork():\n        held[:] = bytes(80 << 20)\n        os._exit(0)\nfor _ in range(4): os.wait()\nprint('fine')"
    assert box.run([box_module.python(), "-c", shared])["output"] == "fine\n"


REFUSED_CALLS = ("ptrace", "process_vm_readv", "keyctl", "add_key", "mount", "unshare", "setns", "bpf", "memfd_create", "shmget", "io_uring_setup", "open_by_handle_at", "userfaultfd", "perf_event_open")  # fmt: skip


def test_parts_of_the_kernel_that_namespaces_do_not_divide_are_refused(box: Sandbox) -> None:
    column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
    numbers = [syscalls._REFUSED[name][column] for name in REFUSED_CALLS]
    tried = python(
        box,
        "import ctypes, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for number in {numbers}:\n    print(libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno())\n"
        f"print(libc.syscall({syscalls._CLONE[column]}, 0x10000000 | 17, 0, 0, 0, 0), ctypes.get_errno())\n"
        "for family in (16, 17, 38, 40):\n"  # netlink, packet, alg, vsock
        "    try:\n        socket.socket(family, socket.SOCK_RAW if family < 40 else socket.SOCK_STREAM); print('made')\n"
        "    except OSError as error:\n        print(error.errno)",
    )
    assert tried.splitlines() == ["-1 1"] * (len(numbers) + 1) + ["97"] * 4
    assert filter_program("riscv64") == b"" and all(filter_program(machine) for machine in ("x86_64", "aarch64"))


def test_threads_pools_and_pipes_work(box: Sandbox) -> None:
    code = "import multiprocessing, socket, subprocess, threading\nwith multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2]))\nt = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\nprint(subprocess.run(['echo', 'program'], capture_output=True, text=True).stdout, socket.socketpair()[0].family)"
    assert python(box, code).split() == ["[1,", "2]", "thread", "program", "1"]


def test_signals_and_files_of_outside_processes(box: Sandbox) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as outside:
        tried = shell(box, f"kill -9 {outside.pid}; ls /proc/{outside.pid}; cat /proc/{outside.pid}/cmdline; ls /sys; cat /dev/kmsg")  # fmt: skip
        assert outside.poll() is None and "sleep" not in tried
        outside.kill()


def test_output_and_disk_are_bounded(box: Sandbox) -> None:
    found = box.run(["/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' 'y'"])
    assert len(found["output"]) == LIMITS.output_bytes and found["left_out"] == 3_000_000 - LIMITS.output_bytes
    assert "No space left" in shell(box, "dd if=/dev/zero of=big bs=1M count=20 2>&1; rm -f big")
    assert "No space left" in shell(box, "mkdir many; cd many; i=0; while touch $i 2>&1; do i=$((i+1)); [ $i -gt 500 ] && break; done; cd ..; rm -r many")  # fmt: skip
    with pytest.raises(ValueError, match="more than"):
        shell(box, "head -c 100000 /dev/zero > large")
        box.read_file("large")
    shell(box, "rm large")


def test_time_is_bounded(box: Sandbox) -> None:
    quick = Sandbox(SandboxLimits(seconds=0.5))
    try:
        for command in ("sleep 60", "yes", "trap '' TERM INT; while :; do :; done"):
            assert quick.run(["/bin/sh", "-c", command])["stopped"] == "time"
    finally:
        quick.close()


def test_nothing_is_left_running(box: Sandbox) -> None:
    shell(box, "(setsid sh -c 'sleep 1; touch late' > /dev/null 2>&1 &); nohup sleep 60 &")
    assert shell(box, "sleep 1.5; ls; ls /proc | grep -c '^[0-9]'").split()[-1] in "2345"
    assert "late" not in box.list_files(".")
    own = Sandbox(LIMITS)
    assert own._worker is not None
    family = descendants(own._worker.pid)
    assert len(family) == 3
    own.close()
    wait_for(lambda: not any(map(alive, family)))
    with pytest.raises(SandboxEnded):
        own.list_files(".")


def test_a_killed_program_takes_its_sandbox_along(box: Sandbox) -> None:
    code = (
        "import os, threading, time\n"
        "from rollhouse.base.worker_process import descendants\n"
        "from rollhouse.environments.python_sandbox.box import Sandbox\n"
        "from rollhouse.environments.python_sandbox.limits import SandboxLimits\n"
        "box = Sandbox(SandboxLimits(seconds=300))\n"
        "threading.Thread(target=box.run, args=(['/bin/sleep', '300'],), daemon=True).start()\n"
        "while len(descendants(os.getpid())) < 5: time.sleep(0.05)\n"
        "print(*descendants(os.getpid())[1:], flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as driver:  # fmt: skip
        assert driver.stdout is not None
        family = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(family) == 4 and all(map(alive, family))
        driver.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(alive, family)))


def test_a_machine_that_cannot_isolate_is_refused(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inside a sandbox no other one can be made.
    box.put_files({"isolate.py": (Path(box_module.__file__).parent / "isolate.py").read_bytes()})
    tried = box.run([box_module.python(), "isolate.py", "{}"])
    assert tried["status"] == 70 and "unshare" in tried["output"]
    monkeypatch.setattr(box_module, "_why_not", lambda: tried["output"].strip())
    with pytest.raises(ConfigError, match=r"No sandbox can be started on this machine: .*unshare"):
        Sandbox(LIMITS)
