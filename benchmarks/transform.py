"""Measures building datasets against HF datasets and pandas, in one run on one machine. Compare ratios, not absolute times.

    python benchmarks/transform.py [--rollouts 1000000] [--store FOLDER] [--out docs/benchmarks-transform.md]

Each measurement runs in a process of its own, on two cores at most, so that its memory is its own.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollhouse.store.lance_store import LanceStore

KINDS = ("sft", "dpo", "grpo")
READ = 20_000
SECONDS, MEGABYTES, RATIO = 10, 2000, 10
# The baselines that read messages get a tenth of the groups: a million nested rows do not fit in memory as Python objects.
PLAIN_SHARE = {"sft": 10, "dpo": 10, "grpo": 1, "grpo_columns": 1}


def main() -> int:
    """Measures and writes the page; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--store", help="make the store here, or use the one that is there")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(_part(options.part, options.store)))
        return 0
    with tempfile.TemporaryDirectory(prefix="rollhouse-bench-") as folder:
        place = options.store or f"{folder}/store"
        if not Path(place).exists():
            from rollhouse.benchmarks.transform_data import make

            make(place, options.rollouts)
        found = {part: _measure(part, place) for part in _parts()}
    page, met = _page(found, options.rollouts)
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    print(page)
    return 0 if met else 1


def _parts() -> list[str]:
    own = [f"ours {kind}" for kind in KINDS]
    return [
        *own,
        "ours step",
        *[f"plain {kind}" for kind in PLAIN_SHARE],
        "signatures minhash",
        "signatures grams",
        "cached minhash",
        "read sft",
    ]


def _measure(part: str, store: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", part, "--store", store]
    environment = {
        **os.environ,
        "POLARS_MAX_THREADS": "2",
        "LANCE_CPU_THREADS": "2",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(part, found, file=sys.stderr)
    return found


def _part(part: str, location: str) -> dict[str, Any]:
    """One measurement: seconds, CPU seconds, peak megabytes and rows."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    what, kind = part.split()
    store = LanceStore.open(location)
    work = {"ours": _ours, "plain": _plain, "signatures": _signatures, "cached": _signatures, "read": _read}[what]
    _import(what)
    ready = work(store, kind, what)
    before, start = os.times(), time.perf_counter()
    rows = ready()
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.user + after.system - before.user - before.system
    return {"seconds": seconds, "cpu": cpu, "megabytes": _peak_megabytes(), "rows": rows}


def _import(what: str) -> None:
    # Imports take about a second and are not measured.
    names = ["lance", "polars", "pandas", "rollhouse.transform.build", "rollhouse.transform.materialize"]
    for name in ["lance", "pandas", "datasets"] if what == "plain" else names:
        importlib.import_module(name)


def _peak_megabytes() -> float:
    # getrusage would return the parent's peak if that was higher.
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def _ours(store: LanceStore, kind: str, what: str) -> Any:
    from rollhouse.transform import build
    from rollhouse.transform.options import DpoOptions

    name = f"{kind}-{time.time_ns()}"
    if kind == "step":
        return lambda: build.build_dpo(store, name, "all", DpoOptions(pairing="step", min_shared_turns=0)).n_rows
    return lambda: getattr(build, f"build_{kind}")(store, name, "all").n_rows


def _plain(store: LanceStore, kind: str, what: str) -> Any:
    from rollhouse.benchmarks import transform_plain

    folder = tempfile.mkdtemp(prefix="rollhouse-bench-plain-")
    return lambda: getattr(transform_plain, kind)(transform_plain.some(store, kind, PLAIN_SHARE[kind]), folder)


def _signatures(store: LanceStore, kind: str, what: str) -> Any:
    import polars as pl
    from rollhouse.transform import signatures

    prompts = pl.Series(store.read("prompts", ["prompt_id"], at="all")["prompt_id"].to_pylist())
    if kind == "minhash":
        return lambda: len(signatures.minhashes(store, "all", prompts)[0])
    return lambda: sum(len(ids) for ids, _ in signatures.gram_lists(store, "all", prompts, 8))


def _read(store: LanceStore, kind: str, what: str) -> Any:
    from rollhouse.transform.materialize import iter_sft
    from rollhouse.transform.versions import get_dataset, list_datasets

    label = next(row["dataset"] for row in list_datasets(store) if row["kind"] == kind)
    dataset = get_dataset(store, label)
    dataset = replace(dataset, references=dataset.references.head(READ))
    return lambda: sum(1 for _ in iter_sft(store, dataset))


def _page(found: dict[str, dict[str, Any]], rollouts: int) -> tuple[str, bool]:
    lines = [
        "# Measurements of datasets",
        "",
        f"`python benchmarks/transform.py`: {rollouts:,} rollouts in groups of eight, five messages each, rewards of 0 and 1. {platform.platform()}, Python {platform.python_version()}, "
        f"two cores, load {os.getloadavg()[0]:.1f} at the end. Each row is a process; reading and writing the version are included, imports are not. "
        "Baselines that read messages get a tenth of the groups and count tenfold.",
        "",
        "| | rows | seconds | CPU seconds | peak MB |",
        "|---|---:|---:|---:|---:|",
        *[f"| {_NAMES.get(part, part)} | {row['rows']:,} | {row['seconds']:.1f} | {row['cpu']:.1f} | {row['megabytes']:,.0f} |" for part, row in found.items()],
        "",
        f"Goals: at most {SECONDS} s and {MEGABYTES:,} MB, at least {RATIO} times faster than the baseline.",
        "",
        "| | s | MB | times faster | in CPU seconds | met |",
        "|---|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    all_met = True
    for kind in KINDS:
        ours, plain = found[f"ours {kind}"], found[f"plain {kind}"]
        faster, faster_cpu = (PLAIN_SHARE[kind] * plain[unit] / ours[unit] for unit in ("seconds", "cpu"))
        met = ours["seconds"] <= SECONDS and ours["megabytes"] <= MEGABYTES and min(faster, faster_cpu) >= RATIO
        all_met &= met
        lines.append(f"| {kind} | {ours['seconds']:.1f} | {ours['megabytes']:,.1f} | {faster:.1f} | {faster_cpu:.1f} | {'yes' if met else '**no**'} |")  # fmt: skip
    fast = found["plain grpo_columns"]["seconds"] / found["ours grpo"]["seconds"]
    note = f"Baselines call a function per task. As one grouped mean in pandas (without reasons or a version), the prompt baseline takes {fast:.1f} times rollhouse's time."
    lines += ["", note]
    return "\n".join(lines) + "\n", all_met


_NAMES = {
    "ours sft": "demonstrations",
    "ours dpo": "pairs",
    "ours grpo": "prompts",
    "ours step": "pairs of steps",
    "plain sft": "demonstrations, `datasets.filter` and `.map`",
    "plain dpo": "pairs, pandas by group",
    "plain grpo": "prompts, pandas by group",
    "plain grpo_columns": "prompts, pandas by column",
    "signatures minhash": "MinHash of every prompt, the first time",
    "signatures grams": "8-grams of every prompt, the first time",
    "cached minhash": "MinHash of every prompt, kept",
    "read sft": "reading the demonstrations, a few at a time",
}

if __name__ == "__main__":
    sys.exit(main())
