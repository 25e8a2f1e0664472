"""Ends what a killed driver leaves of its Ray cluster. Run as a script of its own, with nothing but the standard library.

    python -S reaper.py MARK FOLDER

It reads its standard input until the driver closes it or dies, then kills every process that was started with the mark in its environment
and removes the folder. Ray ends most of them itself, its agents only after half a minute.
"""

import os
import shutil
import signal
import sys
import time

MARK = "ROLLHOUSE_CLUSTER"


def marked(mark: str) -> list[int]:
    """Ids of this user's processes whose environment holds the mark; none where there is no /proc."""
    found = []
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as environment:
                    if wanted in environment.read().split(b"\0"):
                        found.append(int(name))
            except OSError:  # gone, or another's
                continue
    return found


def main(mark: str, folder: str) -> None:
    """Until the driver is gone; then for ten seconds at most, as a process that is dying may still start another."""
    sys.stdin.read()
    end = time.monotonic() + 10
    while (left := marked(mark)) and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
