"""Ends what a killed driver leaves of its Ray cluster. Run as a script of its own, with nothing but the standard library.

    python -S reaper.py MARK FOLDER

It reads its standard input until the driver closes it or dies, then kills every process that was started with the mark in its environment, those
that they started, and removes the folder. Ray ends most of them itself, its agents only after half a minute. Agents write their name over their
environment, so each line of input has the reaper look who is there.
"""

import os
import shutil
import signal
import sys
import time

MARK = "ROLLHOUSE_CLUSTER"


def marked(mark: str) -> dict[int, str]:
    """This user's processes whose environment holds the mark, and what descends from them: by id, when each began; none where there is no /proc."""
    wanted = f"{MARK}={mark}".encode()
    found: set[int] = set()
    began: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
            began[int(name)] = fields[19]
            children.setdefault(int(fields[1]), []).append(int(name))
            with open(f"/proc/{name}/environ", "rb") as environment:
                if wanted in environment.read().split(b"\0"):
                    found.add(int(name))
        except OSError:  # gone, or another's
            continue
    family = list(found)
    for pid in family:
        family += [child for child in children.get(pid, ()) if child not in found]
        found.update(children.get(pid, ()))
    return {pid: began[pid] for pid in family}


def living(known: dict[int, str]) -> dict[int, str]:
    """Those of them that are still there; an id that another process has by now is not theirs."""
    left = {}
    for pid, began in known.items():
        try:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[19] == began and fields[0] not in "ZX":
            left[pid] = began
    return left


def main(mark: str, folder: str) -> None:
    """Until the driver is gone; then for ten seconds at most, as a process that is dying may still start another."""
    known: dict[int, str] = {}
    for _ in sys.stdin:
        known |= marked(mark)
    end = time.monotonic() + 10
    while (known := living(known | marked(mark))) and time.monotonic() < end:
        for pid in known:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
