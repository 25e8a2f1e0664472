"""Measurement of importing plain chats, beside what `datasets` takes to load the same file."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollhouse.benchmarks.store_parts import Bench
from rollhouse.interop.importing import import_file
from rollhouse.store.lance_store import LanceStore

_CHATS = 4_000
_WORDS = "la " * 1_200


def chat_import(bench: Bench) -> None:
    """JSONL of OpenAI chats of 3.6 kB: CPU seconds of one process, all its threads."""
    n = bench.rows(_CHATS)
    path = bench.folder / "chats.jsonl"
    with path.open("w") as file:
        for number in range(n):
            talk = [
                {"role": "user", "content": f"Say {number}. {_WORDS}"},
                {"role": "assistant", "content": str(number)},
            ]
            file.write(json.dumps({"messages": talk}) + "\n")
    store = LanceStore.create(bench.folder / "chats")
    ours = _cpu_seconds(lambda: import_file(store, "openai-chat", path))
    again = _cpu_seconds(lambda: import_file(store, "openai-chat", path))
    rows = [["rollhouse import", ours], ["the same file again: nothing is added", again], ["datasets.load_dataset", _cpu_seconds(lambda: _load(path))]]  # fmt: skip
    assert store.lance_dataset("rollouts").count_rows() == n
    table = [[what, f"{seconds:.2f}", f"{n / seconds:,.0f}", f"{seconds / ours:.2f}"] for what, seconds in rows]
    bench.table(f"Importing {n:,} plain chats", ["what", "CPU s", "chats per CPU s", "against rollhouse"], table)
    bench.paragraph(
        "An import reads, normalises, hashes, checks and commits each chat; `datasets` parses the file into Arrow."
    )
    bench.goal("plain chats imported in a CPU second", n / ours, 1_000, least=True, unit="")


def _load(path: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))


def _cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
