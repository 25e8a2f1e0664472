"""Measurements of writing: size, ingestion, small commits, an import, a writer that is killed."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rollhouse.benchmarks import store_data
from rollhouse.benchmarks.store_formats import FORMATS
from rollhouse.benchmarks.store_parts import Bench, batched, best, seconds_of, size_of
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.maintenance import compact
from rollhouse.store.runs import start_run
from rollhouse.store.tables import TABLES
from rollhouse.store.writer import RolloutWriter


def size_and_ingest(bench: Bench) -> None:
    """Bytes on disk and rollouts a second for the same content, from Python rows."""
    n = bench.rows(16_000)
    chunks = [[row for group in batch for row in group] for batch in batched(store_data.groups(n // 8), 50)]
    made: dict[str, tuple[Path, float]] = {}
    for name, write in FORMATS.items():
        path = bench.folder / name.replace(" ", "-").replace(",", "")
        made[name] = (path, seconds_of(lambda write=write, path=path: write(path, chunks)))
    sizes = {name: size_of(path) / n for name, (path, _) in made.items()}
    ours, parquet, jsonl = "rollhouse", "Parquet zstd, same tables", "JSONL"
    rows = [
        [name, f"{sizes[name]:,.0f}", f"{sizes[name] / sizes[ours]:.2f}", f"{n / made[name][1]:,.0f}", f"{made[name][1] / made[ours][1]:.2f}"]
        for name in FORMATS
    ]  # fmt: skip
    head = ["format", "bytes per rollout", "against rollhouse", "rollouts/s", "time against rollhouse"]
    bench.table("Size, and writing from Python rows", head, rows)
    mean_tokens = np.mean([row.row["n_tokens"] for chunk in chunks for row in chunk])
    bench.paragraph(
        f"{n:,} rollouts in groups of 8, {mean_tokens:,.0f} tokens each after the prompt. In a dump every row repeats prompt and tools. "
        "rollhouse validates, journals and commits every 8 MiB; rollouts are added 64 at a time (`add_many`), or one by one (`add`)."
    )
    bench.goal("bytes against JSONL", sizes[ours] / sizes[jsonl], 1 / 5)
    bench.goal("bytes against Parquet zstd of the same tables", sizes[ours] / sizes[parquet], 1.2)
    bench.goal("ingest time against Parquet zstd of the same rows", made[ours][1] / made[parquet][1], 2)
    _columns_table(bench, made[ours][0], made[parquet][0], n)


def small_appends(bench: Bench) -> None:
    """Many tiny commits, with automatic upkeep."""
    n = bench.rows(10_000)
    store = LanceStore.create(bench.folder / "appends")
    versions = Path(store.table_uri("rollouts"), "_versions")
    groups = store_data.groups(64)
    some = [row for group in groups for row in group]
    times, worst = [], 0
    with start_run(store, "collect", "bench") as run, RolloutWriter(store, run, max_age_s=float("inf")) as writer:
        for number in range(n):
            for sample in range(8):
                row = some[(number * 8 + sample) % len(some)]
                writer.add(row.rollout.changed(rollout_id=f"{number:030d}-{sample}"))
            start = time.perf_counter()
            writer.flush()
            times.append(time.perf_counter() - start)
            if number % 100 == 0:
                worst = max(worst, size_of(versions))
    tenth = max(1, n // 10)
    parts = [times[i : i + tenth] for i in range(0, n, tenth)]
    middle = ", ".join(f"{1e3 * median(part):.1f}" for part in parts)
    slow = ", ".join(f"{1e3 * float(np.quantile(part, 0.99)):.1f}" for part in parts)
    bench.section(
        "Many small commits of 8 rollouts",
        f"In each tenth of {n:,} commits, in ms: median {middle}; 99th percentile {slow}.",
    )
    left = len(store.lance_dataset("rollouts").get_fragments())
    scan = best(lambda: store.read("rollouts", ["reward"]), 3)
    bench.paragraph(
        f"After {n:,} commits: {left} fragments, {len(list(versions.glob('*.manifest'))):,} versions, {size_of(versions) / 1e6:.1f} MB of manifests "
        f"(never more than {worst / 1e6:.1f} MB), one column of all {8 * n:,} rollouts read in {1e3 * scan:.0f} ms. "
        f"The table holds {size_of(Path(store.table_uri('rollouts'), 'data')) / 1e6:,.0f} MB with the files that `gc` would remove."
    )
    assert store.lance_dataset("rollouts").count_rows() == 8 * n
    bench.goal("latency of a small commit, last tenth against first", median(parts[-1]) / median(parts[0]), 2)
    bench.goal("manifests, MB", worst / 1e6, 64, unit="")


def peer_import(bench: Bench) -> None:
    """A dump of another framework: 500 rollouts of 32 kB, nearly all of it the same tool schemas, twice in each row."""
    from rollhouse.interop.importing import import_file

    path = bench.folder / "peer.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _peer_rows(500)))
    store = LanceStore.create(bench.folder / "peer")
    empty = size_of(Path(store.uri))
    seconds = seconds_of(lambda: import_file(store, "nemo-gym", path))
    compact(store)
    from datetime import timedelta

    from rollhouse.store.maintenance import gc

    gc(store, yes=True, retention=timedelta(0))
    assert store.lance_dataset("rollouts").count_rows() == 500
    tables = sum(size_of(Path(store.table_uri(table), "data")) for table in TABLES)
    rows = [
        ["the file", f"{path.stat().st_size / 500:,.0f}"],
        ["data files", f"{tables / 500:,.0f}"],
        ["the whole store, manifests and empty tables included", f"{size_of(Path(store.uri)) / 500:,.0f}"],
    ]
    bench.table("Importing 500 rollouts of NeMo Gym", ["what", "bytes per rollout"], rows)
    bench.paragraph(f"Imported in {seconds:.1f} s. An empty store has {empty / 1e3:.0f} kB.")
    bench.goal("imported rollout on disk, bytes", tables / 500, 1500, unit="")


def kills(bench: Bench) -> None:
    """A writer killed at random moments."""
    if not bench.kills:
        return
    from rollhouse.tests.store.kills import kill_often

    store = LanceStore.create(bench.folder / "kills")
    done = kill_often(store, bench.kills, seed=3)
    bench.table("Kills", ["what", "count"], [
        ["SIGKILL at random moments", bench.kills],
        ["before the run's first rollout", done["early"]],
        ["rollouts added", done["added"]],
        ["rollouts recovered from the journal", done["from_journal"]],
        ["acknowledged or added rollouts lost", 0],
        ["rollouts twice", 0],
    ])  # fmt: skip


def _columns_table(bench: Bench, store: Path, parquet: Path, n: int) -> None:
    """Where the bytes are, column by column; and both writers from Arrow."""
    data = pa.concat_tables(
        [pq.read_table(parquet / "rollouts.parquet", schema=TABLES["rollouts"].schema)]
    ).combine_chunks()
    rows = []
    for columns in (["token_ids"], ["logprobs"], ["loss_mask"], ["messages"]):
        sizes = [size_of(_alone(bench, data, columns, kind)) / n for kind in ("lance", "parquet")]
        rows.append([columns[0], *(f"{size:,.0f}" for size in sizes), f"{sizes[0] / sizes[1]:.2f}"])
    bench.table("Where the bytes are", ["column", "rollhouse", "Parquet zstd", "ratio"], rows)
    target = LanceStore.create(bench.folder / "from-arrow")
    with start_run(target, "collect", "bench") as run, RolloutWriter(target, run) as writer:
        ours = seconds_of(lambda: (writer.add_table(data), writer.flush()))
    theirs = seconds_of(lambda: pq.write_table(data, bench.folder / "from-arrow.parquet", compression="zstd"))
    bench.paragraph(
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
