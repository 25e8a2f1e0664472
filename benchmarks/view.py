"""How fast the viewer answers over a store of a million rollouts and a rollout of 25,000 tokens.

python benchmarks/view.py [--rollouts N] [--store DIR] prints one line a request: the median and the slowest of five in milliseconds, and the goal.
Cached requests are sent with five different filters, so that each is computed.
"""

import argparse
import gzip
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from view_data import LONG_ID, make_store

ROOT = Path(__file__).resolve().parents[1]
TIMES = 5
GOALS_MS = {
    "first page, from the command's start": 1000, "runs": None, "rollouts, interesting first": None, "filter by run, sort by reward": 300, "filter by status, sort by turns": 300,
    "filter by category, sort by reward": 300, "left out of batches, sort by turns": 300, "words in messages": None, "facets": None, "rollout": 100, "lineage of a rollout": None, "25,000 tokens": 200,
    "group": None, "datasets": None, "two runs compared": None,
}  # fmt: skip


def paths(place: int) -> dict[str, str]:
    """The requests of one round."""
    run = f"run-{place + 3:02d}"
    return {
        "runs": "runs",
        "rollouts, interesting first": f"rollouts?turns=1..{place + 12}",
        "filter by run, sort by reward": f"rollouts?run={run}&sort=-reward",
        "filter by status, sort by turns": f"rollouts?status=truncated&turns=..{place + 6}&sort=-turns",
        "filter by category, sort by reward": f"rollouts?category=kind-{place}&sort=reward",
        "left out of batches, sort by turns": f"rollouts?kept=false&turns=..{place + 6}&sort=-turns",
        "words in messages": f"rollouts?q=done+with+1{place}&sort=reward",
        "facets": f"facets?run={run}",
        "rollout": f"rollout/{place + 3:04x}{7:028x}",
        "lineage of a rollout": f"lineage/{place:04x}{7:028x}",
        "25,000 tokens": f"tokens/{LONG_ID}",
        "group": f"group/{place:04x}{3:028x}",
        "datasets": "datasets",
        "two runs compared": f"compare?run={run}&run=run-{place + 4:02d}",
    }


def get(url: str) -> float:
    """Milliseconds that a request takes."""
    started = time.perf_counter()
    with urllib.request.urlopen(url, timeout=120) as answer:
        answer.read()
    return (time.perf_counter() - started) * 1000


def memory(pid: int) -> tuple[int, int]:
    """Current and peak memory of a process, in MB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) // 1024, int(lines["VmHWM"].split()[0]) // 1024


def measure(store: Path) -> None:
    """Starts the server and prints the time of each request."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "rollhouse.cli.main", "view", "--store", str(store), "--port", "0", "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        get(url)
        took: dict[str, list[float]] = {
            "first page, from the command's start": [(time.perf_counter() - started) * 1000]
        }
        api = f"{url}api/{store.name}/"
        get(f"{api}runs")
        for place in range(TIMES):
            for name, path in paths(place).items():
                took.setdefault(name, []).append(get(api + path))
        print("| request | median, ms | slowest, ms | goal, ms |\n|---|---:|---:|---:|")
        for name, times in took.items():
            print(f"| {name} | {statistics.median(times):.0f} | {max(times):.0f} | {GOALS_MS[name] or ''} |")
        held, most = memory(server.pid)
        weight = sum(len(gzip.compress(file.read_bytes())) for file in (ROOT / "view" / "static").iterdir())
        print(f"\nServer memory: {held} MB, {most} MB at most. Page: {weight / 1000:.0f} kB compressed.")
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    """Makes the store unless it is named, and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--store", type=Path, help="a store that an earlier call made")
    options = parser.parse_args()
    if options.store:
        measure(options.store)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        make_store(str(path), options.rollouts)
        measure(path)


if __name__ == "__main__":
    main()
