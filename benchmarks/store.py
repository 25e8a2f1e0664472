"""Measures the store against JSONL, Parquet and HF datasets, in one run on one machine. Compare ratios, not absolute times.

    python benchmarks/store.py [--quick] [--only NAME ...] [--kills 300] [--out docs/benchmarks-store.md]

Each measurement is a function of store_writing, store_importing or store_reading, named by its section. `--quick` takes a tenth of the rows.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from rollhouse.benchmarks.store_importing import chat_import
from rollhouse.benchmarks.store_parts import Bench, row_of, rule
from rollhouse.benchmarks.store_reading import random_batches, scalar_queries
from rollhouse.benchmarks.store_writing import kills, peer_import, size_and_ingest, small_appends

MEASUREMENTS: list[Callable[[Bench], None]] = [
    size_and_ingest,
    random_batches,
    scalar_queries,
    small_appends,
    peer_import,
    chat_import,
    kills,
]


def main() -> int:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--only", nargs="+", choices=[work.__name__ for work in MEASUREMENTS])
    parser.add_argument("--kills", type=int, default=0, help="also kill a writer N times")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollhouse-bench-") as folder:
        bench = Bench(Path(folder), 0.1 if options.quick else 1.0, options.kills)
        for work in MEASUREMENTS:
            if options.only is None or work.__name__ in options.only:
                start = time.perf_counter()
                work(bench)
                print(f"{work.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    page = "\n".join([*_head(bench, options.quick), *bench.lines, ""])
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    print(page)
    return 0 if all(met for *_, met in bench.goals) else 1


def _head(bench: Bench, quick: bool) -> list[str]:
    import duckdb
    import lance

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [
        "# Measurements of the store",
        "",
        f"Made by `python benchmarks/store.py{' --quick' if quick else ''}` on {os.cpu_count()} CPU cores ({platform.machine()}), {memory:.0f} GB of memory, local disk, "
        f"page cache warm, load {os.getloadavg()[0]:.1f} at the end; Python {platform.python_version()}, pylance {lance.__version__}, pyarrow {pa.__version__}, "
        f"duckdb {duckdb.__version__}. Compare ratios, not absolute times.",
    ]
    if bench.goals:
        lines += ["", row_of(["goal", "measured", "met"]), rule(3)]
        lines += [row_of([what, value, "yes" if met else "**no**"]) for what, value, met in bench.goals]
    return lines


if __name__ == "__main__":
    sys.exit(main())
