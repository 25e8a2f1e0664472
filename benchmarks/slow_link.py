"""A link between two network namespaces, with a delay and a rate: frames of two TAP devices, relayed by a process of its own."""

import argparse
import ctypes
import fcntl
import heapq
import os
import select
import struct
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0002, 0x1000, 0x40000000
MOST_WAITING = 4 << 20
"""Bytes that wait for the link in each direction; what comes beyond is lost, as at a router."""


def tap_of(process: int, name: str) -> int:
    """The file of a new TAP device in the network namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{process}/ns/net") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace of process {process}")
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return file


def relay(taps: tuple[int, int], delay_s: float, bits_per_s: float) -> None:
    """Passes frames between the devices for ever. A frame leaves when the link is free, takes its bits / rate, and arrives `delay_s` later."""
    free_at = [0.0, 0.0]  # by direction: when the link has sent all that it was given
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for tap in select.select(taps, [], [], timeout)[0]:
            direction = taps.index(tap)
            for _ in range(256):
                try:
                    frame = os.read(tap, 65_536)
                except BlockingIOError:
                    break
                now = time.monotonic()
                if (free_at[direction] - now) * bits_per_s / 8 > MOST_WAITING:
                    continue
                free_at[direction] = max(now, free_at[direction]) + 8 * len(frame) / bits_per_s
                number += 1
                heapq.heappush(waiting, (free_at[direction] + delay_s, number, taps[1 - direction], frame))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(waiting)
            try:
                os.write(target, frame)
            except OSError:  # the device is down
                continue


def main() -> int:
    """Opens both devices, prints `ready`, and relays until it is ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("processes", type=int, nargs=2, help="a process in each namespace")
    parser.add_argument("--device", default="tap0", help="name of both devices")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="one way")
    parser.add_argument("--mbit", type=float, default=1000.0, help="in each direction")
    options = parser.parse_args()
    first, second = (tap_of(process, options.device) for process in options.processes)
    print("ready", flush=True)
    relay((first, second), options.delay_ms / 1e3, options.mbit * 1e6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
