"""The same rollouts in every format that the benchmark of the store compares."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rollhouse.benchmarks import store_data
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.tables import TABLES
from rollhouse.store.writer import RolloutWriter

JOURNALED = ("prompts", "prompt_tokens", "tasks", "rollouts")
Chunks = list[list[store_data.Sample]]


def _write_jsonl(path: Path, chunks: Chunks) -> None:
    with path.open("w") as file:
        for chunk in chunks:
            file.writelines(json.dumps(store_data.dump_row(row)) + "\n" for row in chunk)


def _write_jsonl_zst(path: Path, chunks: Chunks) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        for chunk in chunks:
            for row in chunk:
                file.write((json.dumps(store_data.dump_row(row)) + "\n").encode())


def _write_parquet_dump(path: Path, chunks: Chunks) -> None:
    writer = None
    for chunk in chunks:
        rows = [store_data.dump_row(row) for row in chunk]
        data = pa.Table.from_pylist([{**row, "tools": json.dumps(row["tools"])} for row in rows])
        writer = writer or pq.ParquetWriter(path, data.schema, compression="zstd")
        writer.write_table(data.cast(writer.schema))
    if writer:
        writer.close()


def _write_parquet_tables(path: Path, chunks: Chunks) -> None:
    path.mkdir()
    writers = {t: pq.ParquetWriter(path / f"{t}.parquet", TABLES[t].schema, compression="zstd") for t in JOURNALED}
    seen: set[str] = set()
    for chunk in chunks:
        for table, rows in _tables(chunk, seen).items():
            writers[table].write_table(pa.Table.from_pylist(rows, schema=TABLES[table].schema))
    for writer in writers.values():
        writer.close()


def _write_datasets(path: Path, chunks: Chunks) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    rows = [
        {**row, "tools": json.dumps(row["tools"])}
        for chunk in chunks
        for row in (store_data.dump_row(r) for r in chunk)
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(path))


def _write_store(path: Path, chunks: Chunks) -> None:
    store = LanceStore.create(path)
    with start_run(store, "collect", "bench") as run, RolloutWriter(store, run) as writer:
        for chunk in chunks:
            for row in chunk:
                writer.add(row.rollout)


def _write_store_by_64(path: Path, chunks: Chunks) -> None:
    store = LanceStore.create(path)
    with start_run(store, "collect", "bench") as run, RolloutWriter(store, run) as writer:
        for chunk in chunks:
            for start in range(0, len(chunk), 64):
                writer.add_many([row.rollout for row in chunk[start : start + 64]])


def _tables(chunk: list[store_data.Sample], seen: set[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table; what was seen in an earlier chunk is left out."""
    tables: dict[str, list[dict[str, Any]]] = {table: [] for table in JOURNALED}
    for row in chunk:
        tables["rollouts"].append(row.row)
        for table, referred, key in (
            ("prompts", row.prompt, "prompt_id"),
            ("tasks", row.task, "task_id"),
            ("prompt_tokens", row.prompt_tokens, "row_id"),
        ):
            if (mark := f"{table}/{referred[key]}") not in seen:
                seen.add(mark)
                tables[table].append(referred)
    return tables


FORMATS: dict[str, Callable[[Path, Chunks], None]] = {
    "rollhouse": _write_store_by_64,
    "rollhouse, one by one": _write_store,
    "Parquet zstd, same tables": _write_parquet_tables,
    "Parquet zstd, dump": _write_parquet_dump,
    "JSONL": _write_jsonl,
    "JSONL.zst": _write_jsonl_zst,
    "HF datasets": _write_datasets,
}
