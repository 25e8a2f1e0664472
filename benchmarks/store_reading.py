"""Measurements of reading: random batches, whole columns, SQL over scalars."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rollhouse.benchmarks import store_data
from rollhouse.benchmarks.store_parts import TOKENS, Bench, best
from rollhouse.store.appending import append_rows, to_arrow
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.tables import TABLES

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


def random_batches(bench: Bench) -> None:
    """256 random rollouts with their tokens, out of many."""
    store, parquet, n = _many_rollouts(bench, bench.rows(96_000))
    dataset = store.lance_dataset("rollouts")
    chance = np.random.default_rng(0)
    columns = ["rollout_id", *TOKENS]

    def ours() -> None:
        assert dataset.take(np.sort(chance.choice(n, 256, replace=False)).tolist(), columns=columns).num_rows == 256

    def by_id() -> None:
        wanted = dataset.take(np.sort(chance.choice(n, 256, replace=False)).tolist(), columns=["rollout_id"])
        listed = ", ".join(f"'{value}'" for value in wanted["rollout_id"].to_pylist())
        assert store.read("rollouts", columns, filter=f"rollout_id IN ({listed})").num_rows == 256

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
        "rollhouse, by position": best(ours, 10),
        "rollhouse, by id": best(by_id, 5),
        "Parquet zstd": best(theirs, 2),
    }
    rows = [[name, f"{1e3 * t:,.1f}", f"{times['Parquet zstd'] / t:,.0f}"] for name, t in times.items()]
    bench.table("A random batch of 256 rollouts with tokens", ["store", "ms", "times faster than Parquet"], rows)
    bench.paragraph(f"Of {n:,} rollouts. Parquet row groups have 1,000 rows.")
    bench.goal(
        "random batch, times faster than Parquet",
        times["Parquet zstd"] / times["rollhouse, by position"],
        50,
        least=True,
    )
    _full_scan(bench, store, parquet, n)


def scalar_queries(bench: Bench) -> None:
    """SQL over the scalar columns of a million rollouts."""
    import duckdb
    from rollhouse.queries.session import connect

    n = bench.rows(1_000_000)
    data = _scalar_rollouts(n)
    store = LanceStore.create(bench.folder / "scalars")
    for start in range(0, n, 100_000):
        append_rows(store, "rollouts", data.slice(start, 100_000))
    with start_run(store, "collect", "upkeep") as run:
        from rollhouse.store.upkeep import UpkeepPolicy, maintain

        maintain(store, UpkeepPolicy(fragments=1, index_rows=1000))
        run.finish({})
    parquet = bench.folder / "scalars.parquet"
    pq.write_table(data.drop_columns([*TOKENS, "messages"]), parquet, compression="zstd")
    ours = connect(store)
    theirs = duckdb.connect()
    theirs.execute(f"CREATE VIEW rollouts AS SELECT * FROM read_parquet('{parquet}')")
    rows, ratios = [], []
    for name, query in QUERIES.items():
        answers = [con.execute(query).fetchall() for con in (ours, theirs)]
        assert len(answers[0]) == len(answers[1])
        a, b = (best(lambda con=con, query=query: con.execute(query).fetchall(), 7) for con in (ours, theirs))
        ratios.append(a / b)
        rows.append([name, f"{1e3 * a:.1f}", f"{1e3 * b:.1f}", f"{a / b:.2f}"])
    bench.table(
        f"Scalar queries over {n:,} rollouts", ["query", "rollhouse, ms", "DuckDB on Parquet, ms", "ratio"], rows
    )
    bench.paragraph(
        "Filters that most rows pass and grouping on text miss the goal: DuckDB reads text from Parquet as dictionary codes."
    )
    bench.goal("scalar queries against DuckDB on Parquet, worst", max(ratios), 2.5)


def _many_rollouts(bench: Bench, n: int) -> tuple[LanceStore, Path, int]:
    """A store and a Parquet file of the same `n` rollouts: some made, the rest copies of them under other ids."""
    some = pa.Table.from_pylist([r.row for g in store_data.groups(1000) for r in g], schema=TABLES["rollouts"].schema)
    store, parquet = LanceStore.create(bench.folder / "many"), bench.folder / "many.parquet"
    with pq.ParquetWriter(parquet, some.schema, compression="zstd") as writer:
        for start in range(0, n, some.num_rows):
            part = some.slice(0, min(some.num_rows, n - start))
            keys = pa.array([f"{start + i:032d}" for i in range(part.num_rows)])
            part = part.set_column(0, some.schema.field(0), keys)
            append_rows(store, "rollouts", part)
            writer.write_table(part, row_group_size=1000)
    return store, parquet, n


_SCAN = """
import sys, time
import pyarrow as pa, pyarrow.parquet as pq, numpy, lance
from rollhouse.store.lance_store import LanceStore
columns = ["token_ids", "loss_mask", "logprobs"]
def peak():
    # ru_maxrss would count the process that started this one.
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
start, tokens = time.perf_counter(), 0
if sys.argv[1] == "store":
    batches = LanceStore.open(sys.argv[2]).batches("rollouts", columns)
else:
    batches = pq.ParquetFile(sys.argv[2]).iter_batches(batch_size=1000, columns=columns)
for batch in batches:
    tokens += len(batch.column(0).flatten())
print(tokens, time.perf_counter() - start, peak(), peak() - before)
"""


def _full_scan(bench: Bench, store: LanceStore, parquet: Path, n: int) -> None:
    rows, peaks = [], {}
    for kind, where in (("store", store.uri), ("parquet", str(parquet))):
        done = subprocess.run([sys.executable, "-c", _SCAN, kind, where], capture_output=True, text=True, check=True)
        tokens, seconds, peak, more = map(float, done.stdout.split())
        peaks[kind] = peak
        rows.append([kind, f"{tokens / seconds / 1e6:.0f}", f"{peak:.0f}", f"{more:.0f}"])
    head = ["store", "million tokens/s", "peak memory, MB", "of it not the imports"]
    bench.table(f"Reading all tokens of {n:,} rollouts", head, rows)
    bench.goal("peak memory of reading all tokens, MB", peaks["store"], 500, unit="")


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
    return to_arrow("rollouts", pa.table(columns))
