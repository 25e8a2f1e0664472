"""What the store costs and gives, against JSONL, Parquet and HF datasets, in one run on one machine. Ratios travel; absolute times do not.

    python benchmarks/store.py [--quick] [--only NAME ...] [--kills 300] [--out docs/benchmarks-store.md]

Each measurement is a function below, named by its section. `--quick` takes a tenth of the rows.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rollhouse.benchmarks import store_data
from rollhouse.benchmarks.store_formats import FORMATS
from rollhouse.store.house import House
from rollhouse.store.maintenance import compact
from rollhouse.store.runs import start_run
from rollhouse.store.tables import TABLES
from rollhouse.store.writer import RolloutWriter

TOKENS = ["token_ids", "loss_mask", "logprobs"]


@dataclass
class Bench:
    """Where the measurements lie and what they found.

    Attributes:
        scale: Share of the rows.
        lines: The page, as Markdown lines.
        goals: What was wanted, what was measured, and whether that is enough.
    """

    folder: Path
    scale: float
    kills: int
    lines: list[str] = field(default_factory=list)
    goals: list[tuple[str, str, bool]] = field(default_factory=list)

    def rows(self, n: int) -> int:
        """So many rows at full scale."""
        return max(80, int(n * self.scale) // 8 * 8)

    def table(self, title: str, head: list[str], rows: list[list[Any]]) -> None:
        """Adds a section with a table."""
        self.lines += ["", f"## {title}", "", _row(head), _row(["---"] * len(head)), *map(_row, rows)]

    def say(self, text: str) -> None:
        """Adds a paragraph."""
        self.lines += ["", text]

    def goal(self, what: str, value: float, bound: float, least: bool = False, unit: str = "x") -> None:
        """Compares a number with what was wanted."""
        met = value >= bound if least else value <= bound
        self.goals.append((f"{what}: {'at least' if least else 'at most'} {bound:g}{unit}", f"{value:.3g}{unit}", met))


def main() -> int:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--only", nargs="+", choices=[work.__name__ for work in MEASUREMENTS])
    parser.add_argument("--kills", type=int, default=0, help="kill a writer so many times, too")
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


def size_and_ingest(bench: Bench) -> None:
    """Bytes on disk and rollouts a second for the same content, from Python rows."""
    n = bench.rows(16_000)
    chunks = [[row for group in batch for row in group] for batch in _batched(store_data.groups(n // 8), 50)]
    made: dict[str, tuple[Path, float]] = {}
    for name, write in FORMATS.items():
        path = bench.folder / name.replace(" ", "-").replace(",", "")
        made[name] = (path, _seconds(lambda write=write, path=path: write(path, chunks)))
    sizes = {name: _size(path) / n for name, (path, _) in made.items()}
    ours, parquet, jsonl = "rollhouse", "Parquet zstd, same tables", "JSONL"
    rows = [
        [name, f"{sizes[name]:,.0f}", f"{sizes[name] / sizes[ours]:.2f}", f"{n / made[name][1]:,.0f}", f"{made[name][1] / made[ours][1]:.2f}"]
        for name in FORMATS
    ]  # fmt: skip
    head = ["format", "bytes a rollout", "against rollhouse", "rollouts/s", "time against rollhouse"]
    bench.table("Size, and writing from Python rows", head, rows)
    mean_tokens = np.mean([row["rollout"]["n_tokens"] for chunk in chunks for row in chunk])
    bench.say(
        f"{n:,} rollouts in groups of 8, {mean_tokens:,.0f} tokens each after the prompt. A dump holds the prompt, its tools and its tokens in every row; "
        "`same tables` are the rows of `rollouts`, `prompts`, `prompt_tokens` and `tasks` as rollhouse keeps them. rollhouse validates, journals and commits "
        "every 8 MiB; it is given 64 rollouts at a time (`add_many`), or one by one (`add`)."
    )
    bench.goal("bytes against JSONL", sizes[ours] / sizes[jsonl], 1 / 5)
    bench.goal("bytes against Parquet zstd of the same tables", sizes[ours] / sizes[parquet], 1.2)
    bench.goal("ingest time against Parquet zstd of the same rows", made[ours][1] / made[parquet][1], 2)
    _columns_table(bench, made[ours][0], made[parquet][0], n)


def random_batches(bench: Bench) -> None:
    """256 random rollouts with their tokens, out of many."""
    house, parquet, n = _many_rollouts(bench, bench.rows(96_000))
    dataset = house.dataset("rollouts")
    chance = np.random.default_rng(0)
    columns = ["rollout_id", *TOKENS]

    def ours() -> None:
        assert dataset.take(np.sort(chance.choice(n, 256, replace=False)).tolist(), columns=columns).num_rows == 256

    def by_id() -> None:
        wanted = dataset.take(np.sort(chance.choice(n, 256, replace=False)).tolist(), columns=["rollout_id"])
        listed = ", ".join(f"'{value}'" for value in wanted["rollout_id"].to_pylist())
        assert house.read("rollouts", columns, filter=f"rollout_id IN ({listed})").num_rows == 256

    def theirs() -> None:
        rows = np.sort(chance.choice(n, 256, replace=False))
        file = pq.ParquetFile(parquet)
        starts = np.cumsum([0] + [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
        found = 0
        for group in range(file.num_row_groups):
            inside = rows[(rows >= starts[group]) & (rows < starts[group + 1])] - starts[group]
            found += file.read_row_group(group, columns=columns).take(inside).num_rows if len(inside) else 0
        assert found == 256

    times = {
        "rollhouse, by position": _best(ours, 10),
        "rollhouse, by id": _best(by_id, 5),
        "Parquet zstd": _best(theirs, 2),
    }
    rows = [[name, f"{1e3 * t:,.1f}", f"{times['Parquet zstd'] / t:,.0f}"] for name, t in times.items()]
    bench.table("A random batch of 256 rollouts with tokens", ["store", "ms", "times faster than Parquet"], rows)
    bench.say(f"Out of {n:,} rollouts. Parquet has row groups of 1,000 rows, and reads those that hold a wanted one.")
    bench.goal(
        "random batch, times faster than Parquet",
        times["Parquet zstd"] / times["rollhouse, by position"],
        50,
        least=True,
    )
    _full_scan(bench, house, parquet, n)


def scalar_queries(bench: Bench) -> None:
    """SQL over the scalar columns of a million rollouts."""
    import duckdb
    from rollhouse.queries.session import connect

    n = bench.rows(1_000_000)
    data = _scalar_rollouts(n)
    house = House.create(bench.folder / "scalars")
    for start in range(0, n, 100_000):
        house.append("rollouts", data.slice(start, 100_000))
    with start_run(house, "collect", "upkeep") as run:
        from rollhouse.store.upkeep import Policy, maintain

        maintain(house, Policy(fragments=1, index_rows=1000))
        run.finish({})
    parquet = bench.folder / "scalars.parquet"
    pq.write_table(data.drop_columns([*TOKENS, "messages"]), parquet, compression="zstd")
    ours = connect(house)
    theirs = duckdb.connect()
    theirs.execute(f"CREATE VIEW rollouts AS SELECT * FROM read_parquet('{parquet}')")
    rows, ratios = [], []
    for name, query in QUERIES.items():
        answers = [con.execute(query).fetchall() for con in (ours, theirs)]
        assert len(answers[0]) == len(answers[1])
        a, b = (_best(lambda con=con, query=query: con.execute(query).fetchall(), 7) for con in (ours, theirs))
        ratios.append(a / b)
        rows.append([name, f"{1e3 * a:.1f}", f"{1e3 * b:.1f}", f"{a / b:.2f}"])
    bench.table(
        f"Scalar queries over {n:,} rollouts", ["query", "rollhouse, ms", "DuckDB on Parquet, ms", "ratio"], rows
    )
    bench.say(
        "Where the goal is missed: a filter that lets most rows pass, and text grouped by. DuckDB reads such text from Parquet as dictionary codes and from Lance as text; aggregates over numbers and narrow filters are near or below Parquet's time."
    )
    bench.goal("scalar queries against DuckDB on Parquet, worst", max(ratios), 2.5)


def small_appends(bench: Bench) -> None:
    """Many tiny commits, with the upkeep that runs by itself."""
    n = bench.rows(10_000)
    house = House.create(bench.folder / "appends")
    versions = Path(house.table_uri("rollouts"), "_versions")
    groups = store_data.groups(64)
    some = [row for group in groups for row in group]
    times, worst = [], 0
    with start_run(house, "collect", "bench") as run, RolloutWriter(house, run, max_age_s=float("inf")) as writer:
        for number in range(n):
            for sample in range(8):
                row = some[(number * 8 + sample) % len(some)]
                rollout = {**row["rollout"], "rollout_id": f"{number:030d}-{sample}"}
                writer.add(rollout, row["prompt"], row["task"], row["prompt_tokens"])
            start = time.perf_counter()
            writer.flush()
            times.append(time.perf_counter() - start)
            if number % 100 == 0:
                worst = max(worst, _size(versions))
    tenth = max(1, n // 10)
    parts = [times[i : i + tenth] for i in range(0, n, tenth)]
    rows = [
        [f"{i * tenth:,}", f"{1e3 * median(part):.1f}", f"{1e3 * float(np.quantile(part, 0.99)):.1f}"]
        for i, part in enumerate(parts)
    ]
    bench.table("Many small commits of 8 rollouts", ["commits before", "median ms a commit", "99th percentile"], rows)
    left = len(house.dataset("rollouts").get_fragments())
    scan = _best(lambda: house.read("rollouts", ["reward"]), 3)
    bench.say(
        f"After {n:,} commits: {left} fragments, {len(list(versions.glob('*.manifest'))):,} versions, {_size(versions) / 1e6:.1f} MB of manifests "
        f"(never more than {worst / 1e6:.1f} MB), one column of all {8 * n:,} rollouts read in {1e3 * scan:.0f} ms. "
        f"The table holds {_size(Path(house.table_uri('rollouts'), 'data')) / 1e6:,.0f} MB, what compaction replaced and `gc` would free included."
    )
    bench.say(
        "What grows is Lance's note of which commit made each row, about 20 bytes a commit in every version: larger commits, not more upkeep, keep it small."
    )
    assert house.dataset("rollouts").count_rows() == 8 * n
    bench.goal("latency of a small commit, last tenth against first", median(parts[-1]) / median(parts[0]), 2)
    bench.goal("manifests, MB", worst / 1e6, 64, unit="")


def peer_import(bench: Bench) -> None:
    """A dump of another framework: 500 rollouts of 32 kB, nearly all of it the same tool schemas, twice in each row."""
    from rollhouse.interop.importing import import_file

    path = bench.folder / "peer.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _peer_rows(500)))
    house = House.create(bench.folder / "peer")
    empty = _size(Path(house.uri))
    seconds = _seconds(lambda: import_file(house, "nemo-gym", path))
    compact(house)
    from datetime import timedelta

    from rollhouse.store.maintenance import gc

    gc(house, yes=True, retention=timedelta(0))
    assert house.dataset("rollouts").count_rows() == 500
    tables = sum(_size(Path(house.table_uri(table), "data")) for table in TABLES)
    rows = [
        ["the file", f"{path.stat().st_size / 500:,.0f}"],
        ["data files", f"{tables / 500:,.0f}"],
        ["the whole house, manifests and empty tables included", f"{_size(Path(house.uri)) / 500:,.0f}"],
    ]
    bench.table("Importing a peer's 500 rollouts", ["what", "bytes a rollout"], rows)
    bench.say(f"Imported in {seconds:.1f} s. An empty house has {empty / 1e3:.0f} kB.")
    bench.goal("imported rollout on disk, bytes", tables / 500, 1500, unit="")


def kills(bench: Bench) -> None:
    """A writer killed at random moments."""
    if not bench.kills:
        return
    from rollhouse.tests.store.kills import kill_often

    house = House.create(bench.folder / "kills")
    done = kill_often(house, bench.kills, seed=3)
    bench.table("Kills", ["what", "how many"], [
        ["kills with SIGKILL at random moments", bench.kills],
        ["of them before the run had taken its first rollout", done["early"]],
        ["rollouts added", done["added"]],
        ["rollouts that only the journal had when it was killed", done["from_journal"]],
        ["acknowledged or added rollouts lost", 0],
        ["rollouts there twice", 0],
    ])  # fmt: skip


MEASUREMENTS: list[Callable[[Bench], None]] = [
    size_and_ingest,
    random_batches,
    scalar_queries,
    small_appends,
    peer_import,
    kills,
]

QUERIES = {
    "count": "SELECT count(*) FROM rollouts WHERE status = 'completed'",
    "mean by step": "SELECT step, avg(reward) FROM rollouts GROUP BY step ORDER BY step",
    "pass rate by task": "SELECT task_id, avg(passed::INT) FROM rollouts GROUP BY task_id",
    "quantiles": "SELECT quantile_cont(reward, [0.1, 0.5, 0.9]), quantile_cont(n_tokens, 0.9) FROM rollouts",
    "variance by group": "SELECT count(*) FROM (SELECT group_id, stddev_pop(reward) AS s FROM rollouts GROUP BY group_id) WHERE s = 0",
    "one step": "SELECT count(*), avg(reward) FROM rollouts WHERE step = 77",
    "one task, one status": "SELECT count(*), avg(reward) FROM rollouts WHERE task_id = 'task-00000123' AND status = 'completed'",
    "by run and status": "SELECT run_id, status, count(*), avg(duration_s) FROM rollouts GROUP BY run_id, status",
}  # fmt: skip


def _columns_table(bench: Bench, house: Path, parquet: Path, n: int) -> None:
    """Where the bytes are, column by column; and both writers from Arrow."""
    data = pa.concat_tables(
        [pq.read_table(parquet / "rollouts.parquet", schema=TABLES["rollouts"].schema)]
    ).combine_chunks()
    rows = []
    for columns in (["token_ids"], ["logprobs"], ["loss_mask"], ["messages"]):
        sizes = [_size(_alone(bench, data, columns, kind)) / n for kind in ("lance", "parquet")]
        rows.append([columns[0], *(f"{size:,.0f}" for size in sizes), f"{sizes[0] / sizes[1]:.2f}"])
    bench.table("Where the bytes are", ["column", "rollhouse", "Parquet zstd", "ratio"], rows)
    target = House.create(bench.folder / "from-arrow")
    with start_run(target, "collect", "bench") as run, RolloutWriter(target, run) as writer:
        ours = _seconds(lambda: (writer.add_table(data), writer.flush()))
    theirs = _seconds(lambda: pq.write_table(data, bench.folder / "from-arrow.parquet", compression="zstd"))
    bench.say(
        f"From Arrow, without Python rows: `add_table` {n / ours:,.0f} rollouts/s, Parquet zstd {n / theirs:,.0f} ({ours / theirs:.2f}x the time)."
    )


def _alone(bench: Bench, data: pa.Table, columns: list[str], kind: str) -> Path:
    import lance

    path = bench.folder / f"alone-{columns[0]}.{kind}"
    some = data.select(columns)
    if kind == "lance":
        lance.write_dataset(some, path, data_storage_version="2.2")
    else:
        pq.write_table(some, path, compression="zstd")
    return path / "data" if kind == "lance" else path


def _many_rollouts(bench: Bench, n: int) -> tuple[House, Path, int]:
    """A house and a Parquet file of the same `n` rollouts: some made, the rest copies of them under other ids."""
    some = pa.Table.from_pylist(
        [r["rollout"] for g in store_data.groups(1000) for r in g], schema=TABLES["rollouts"].schema
    )
    house, parquet = House.create(bench.folder / "many"), bench.folder / "many.parquet"
    with pq.ParquetWriter(parquet, some.schema, compression="zstd") as writer:
        for start in range(0, n, some.num_rows):
            part = some.slice(0, min(some.num_rows, n - start))
            keys = pa.array([f"{start + i:032d}" for i in range(part.num_rows)])
            part = part.set_column(0, some.schema.field(0), keys)
            house.append("rollouts", part)
            writer.write_table(part, row_group_size=1000)
    return house, parquet, n


_SCAN = """
import sys, time
import pyarrow as pa, pyarrow.parquet as pq, numpy, lance
from rollhouse.store.house import House
columns = ["token_ids", "loss_mask", "logprobs"]
def peak():
    # ru_maxrss would count the process that started this one.
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
start, tokens = time.perf_counter(), 0
if sys.argv[1] == "house":
    batches = House.open(sys.argv[2]).batches("rollouts", columns)
else:
    batches = pq.ParquetFile(sys.argv[2]).iter_batches(batch_size=1000, columns=columns)
for batch in batches:
    tokens += len(batch.column(0).flatten())
print(tokens, time.perf_counter() - start, peak(), peak() - before)
"""


def _full_scan(bench: Bench, house: House, parquet: Path, n: int) -> None:
    rows, peaks = [], {}
    for kind, where in (("house", house.uri), ("parquet", str(parquet))):
        done = subprocess.run([sys.executable, "-c", _SCAN, kind, where], capture_output=True, text=True, check=True)
        tokens, seconds, peak, more = map(float, done.stdout.split())
        peaks[kind] = peak
        rows.append([kind, f"{tokens / seconds / 1e6:.0f}", f"{peak:.0f}", f"{more:.0f}"])
    head = ["store", "million tokens/s", "peak memory, MB", "of it not the imports"]
    bench.table(f"Reading all tokens of {n:,} rollouts", head, rows)
    bench.goal("peak memory of reading all tokens, MB", peaks["house"], 500, unit="")


def _scalar_rollouts(n: int) -> pa.Table:
    chance = np.random.default_rng(0)
    group = np.arange(n) // 8
    reward = (chance.random(n) < 0.4).astype(np.float32)
    strings = {
        "rollout_id": [f"{i:032d}" for i in range(n)],
        "slot_id": [f"{i:032d}" for i in range(n)],
        "task_id": [f"task-{i % 2000:08d}" for i in group],
        "group_id": [f"group-{i:08d}" for i in group],
        "prompt_id": [f"prompt-{i % 2000:08d}" for i in group],
        "run_id": [f"run-{i * 8 * 4 // n}" for i in group],
    }
    columns: dict[str, Any] = {
        **strings,
        "step": pa.array((group // 64).astype(np.int32)),
        "sample_index": pa.array((np.arange(n) % 8).astype(np.int32)),
        "attempt": pa.array(np.zeros(n, np.int32)),
        "environment": pa.array(["desk"] * n),
        "reward": pa.array(reward),
        "passed": pa.array(reward > 0),
        "status": pa.array(np.where(chance.random(n) < 0.97, "completed", "truncated")),
        "n_tokens": pa.array(chance.integers(200, 4000, n).astype(np.int32)),
        "n_sampled_tokens": pa.array(chance.integers(50, 900, n).astype(np.int32)),
        "duration_s": pa.array(chance.random(n) * 30),
    }
    return House("unused").to_arrow("rollouts", pa.table(columns))


def _peer_rows(n: int) -> Iterator[dict[str, Any]]:
    schemas = [
        {"type": "function", **tool["function"], "strict": False}
        for tool in store_data.tools(store_data.random.Random(5))
    ]
    while len(json.dumps(schemas)) < 15_700:
        schemas.append({**schemas[len(schemas) % 12], "name": f"tool_{len(schemas)}"})
    for number in range(n):
        question = f"What is {number // 4} and {number % 4}?"
        request = {
            "input": [{"role": "user", "content": question, "type": "message"}],
            "tools": schemas,
            "temperature": 1.0,
        }
        output = [
            {"type": "function_call", "id": f"f{number}", "call_id": f"c{number}", "name": "find_order", "arguments": json.dumps({"a": number}), "status": "completed"},
            {"type": "function_call_output", "call_id": f"c{number}", "output": json.dumps({"output": number})},
            {"type": "message", "id": f"m{number}", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": f"It is {number}.", "annotations": []}]},
        ]  # fmt: skip
        response = {"id": f"resp_{number}", "model": "little", "output": output, "tools": schemas, "error": None}
        yield {
            "responses_create_params": request,
            "response": response,
            "reward": float(number % 2),
            "_ng_task_index": number // 4,
            "_ng_rollout_index": number % 4,
            "agent_ref": {"type": "responses_api_agents", "name": "calculator_agent"},
        }


def _head(bench: Bench, quick: bool) -> list[str]:
    import duckdb
    import lance

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [
        "# Measurements of the store",
        "",
        f"Made by `python benchmarks/store.py{' --quick' if quick else ''}` on {os.cpu_count()} CPU cores ({platform.machine()}), {memory:.0f} GB of memory, local disk, "
        f"page cache warm, load {os.getloadavg()[0]:.1f} at the end; Python {platform.python_version()}, pylance {lance.__version__}, pyarrow {pa.__version__}, "
        f"duckdb {duckdb.__version__}. Ratios travel; absolute times do not.",
    ]
    if bench.goals:
        lines += ["", _row(["goal", "measured", "met"]), _row(["---"] * 3)]
        lines += [_row([what, value, "yes" if met else "**no**"]) for what, value, met in bench.goals]
    return lines


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _batched(items: Iterator[Any], n: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == n:
            yield batch
            batch = []
    if batch:
        yield batch


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _best(work: Callable[[], Any], times: int) -> float:
    return min(_seconds(work) for _ in range(times))


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
