"""Runs a command in Linux namespaces of its own, in a file system that it cannot leave: `python isolate.py SETTINGS_AS_JSON`.

The command is process 1 of a PID namespace, so that every process it leaves behind ends with it. It sees the binds, all read-only, and these
directories in memory: /work, /tmp, /dev/shm and the places that the settings name. It has no network, no capability, no way to gain one, a user id that no other process has, and not all system calls.

Started by path; imports the standard library alone. Any failure before the command starts is one line on stderr and exit status 70.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

INSIDE_ID = 1000
_OUTSIDE_IDS = 1_000_000_000
_NEW_MOUNT, _NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = _NEW_USER | _NEW_MOUNT | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS | _NEW_CGROUP
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXEC = 1, 2, 4, 8
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_DETACH = 2
_AT_RECURSIVE, _MOUNT_SETATTR, _PIVOT_ROOT = 0x8000, 442, {"x86_64": 155, "aarch64": 41}
_PARENT_DEATH, _NO_NEW_PRIVILEGES, _DROP_BOUNDING = 1, 38, 24
_SET_SECCOMP, _FILTER_MODE = 22, 2
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ROOT = "/tmp"
FAILED = 70

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Runs the command and ends as it ends."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    ready, unshared = os.pipe()
    go, mapped = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        os.close(mapped)
        _guarded(lambda: _in_namespaces(settings, unshared, go))
    os.close(unshared)
    os.close(go)
    if os.read(ready, 1):
        _guarded(lambda: _map_ids(child))
        os.write(mapped, b"x")
    os.close(mapped)
    _end_as(child)


def _in_namespaces(settings: dict[str, Any], unshared: int, go: int) -> None:
    """The parent of the command: in its namespaces, but for the PID namespace, which only its children are in."""
    _call("prctl", _PARENT_DEATH, signal.SIGKILL, 0, 0, 0)
    _call("unshare", _NAMESPACES)
    os.write(unshared, b"x")
    os.close(unshared)
    if not os.read(go, 1):
        raise OSError(errno.EPERM, "the user id could not be mapped")
    os.close(go)
    child = os.fork()
    if child == 0:
        _guarded(lambda: _become(settings))
    _end_as(child)


def _become(settings: dict[str, Any]) -> None:
    _call("prctl", _PARENT_DEATH, signal.SIGKILL, 0, 0, 0)
    _build_root(settings)
    _limit(settings["limits"])
    _call("sethostname", b"sandbox", 7)
    for capability in range(64):
        if _libc.prctl(_DROP_BOUNDING, capability, 0, 0, 0):
            break
    os.setresgid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    os.setresuid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _call("prctl", _PARENT_DEATH, signal.SIGKILL, 0, 0, 0)  # a change of user clears it
    os.chdir("/work")
    os.umask(0o077)
    _filter(bytes.fromhex(settings["filter"]))
    os.execve(settings["command"][0], settings["command"], settings["environment"])


def _filter(program: bytes) -> None:
    """Refuses system calls from now on; see `syscalls`."""
    if program:
        held = ctypes.create_string_buffer(program, len(program))
        # struct sock_fprog: the number of instructions, and where they are.
        described = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
        _call("prctl", _SET_SECCOMP, _FILTER_MODE, described, 0, 0)


def _map_ids(child: int) -> None:
    """INSIDE_ID is an id that nothing else has, where this process may choose one; else the id of this process."""
    _write(f"/proc/{child}/setgroups", "deny")
    for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
        alone = f"{INSIDE_ID} {own} 1"
        if os.geteuid() != 0:
            _write(f"/proc/{child}/{kind}_map", alone)
            continue
        try:
            _write(f"/proc/{child}/{kind}_map", f"0 {own} 1\n{INSIDE_ID} {_OUTSIDE_IDS + child} 1")
        except OSError:  # root of a container that has few ids
            _write(f"/proc/{child}/{kind}_map", alone)


def _build_root(settings: dict[str, Any]) -> None:
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    # Opened before a mount hides what they are in.
    sources = [(os.open(source, os.O_PATH), os.path.isdir(source), target) for source, target in settings["binds"]]
    sources += [(os.open(f"/dev/{name}", os.O_PATH), False, f"/dev/{name}") for name in _DEVICES]
    _mount("tmpfs", _ROOT, "tmpfs", _NO_SUID, "size=4m,mode=755")
    further = [(place, "work_mb") for place in settings["places"]]
    for place, folder in (("/work", "work_mb"), ("/tmp", "tmp_mb"), ("/dev/shm", "tmp_mb"), *further):
        os.makedirs(_ROOT + place, exist_ok=True)
        size = f"size={settings[folder]}m,nr_inodes={settings['files']},mode=700"
        _mount("tmpfs", _ROOT + place, "tmpfs", _NO_SUID | _NO_DEVICES, size)
        os.chown(_ROOT + place, INSIDE_ID, INSIDE_ID)
    for target, link in settings["links"]:
        os.symlink(link, _ROOT + target)
    for opened, is_folder, target in sources:
        _bind(opened, is_folder, _ROOT + target)
    _processes()
    for name, place in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{place}", f"{_ROOT}/dev/{name}")
    os.makedirs(f"{_ROOT}/etc", exist_ok=True)
    _create(f"{_ROOT}/etc/passwd", f"user:x:{INSIDE_ID}:{INSIDE_ID}::/work:/bin/sh\n")
    _create(f"{_ROOT}/etc/group", f"user:x:{INSIDE_ID}:\n")
    os.chdir(_ROOT)
    if _libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."):
        raise _error("pivot_root")
    _call("umount2", b".", _DETACH)
    os.chdir("/")
    _protect("/", recursive=False)


def _bind(opened: int, is_folder: bool, target: str) -> None:
    if is_folder:
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _create(target, "")
    _mount(f"/proc/self/fd/{opened}", target, None, _BIND | _RECURSIVE)
    if not target.startswith(f"{_ROOT}/dev/"):
        _protect(target, recursive=True)
    os.close(opened)


def _processes() -> None:
    """/proc of the PID namespace, where the kernel allows one; user namespaces, which would give capabilities back, are off."""
    place = f"{_ROOT}/proc"
    os.makedirs(place)
    try:
        _mount("proc", place, "proc", _NO_SUID | _NO_DEVICES | _NO_EXEC)
    except OSError:
        return
    _write(f"{place}/sys/user/max_user_namespaces", "0")
    _protect(place, recursive=False)


def _protect(place: str, recursive: bool) -> None:
    """Makes a mount, and those below it, read-only and without devices and set-user-id programs."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _NO_SUID | _NO_DEVICES, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    if _libc.syscall(_MOUNT_SETATTR, -1, place.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes)):
        raise _error("mount_setattr (Linux 5.12)")


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _guarded(work: Any) -> None:
    """Does the work; in a process that cannot, writes why and ends it."""
    try:
        work()
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}\n")
        sys.stderr.flush()
        os._exit(FAILED)


def _end_as(child: int) -> None:
    """Waits for a child, holding neither its input nor its output, and ends as it did."""
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _call("mount", *(None if text is None else text.encode() for text in (source, target, kind)), flags, None if data is None else data.encode())  # fmt: skip


def _call(name: str, *args: Any) -> None:
    if getattr(_libc, name)(*args):
        raise _error(name)


def _error(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{name}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _create(path: str, text: str) -> None:
    with open(path, "x") as file:
        file.write(text)


if __name__ == "__main__":
    main()
