"""The table of formats in docs/import.md says what each format holds, in both directions."""

from pathlib import Path
from typing import Any

import pytest
from rollhouse.interop.exporting import export_file
from rollhouse.interop.formats import EXPORTS, IMPORTS
from rollhouse.interop.importing import import_file
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.interop import samples
from rollhouse.tests.interop.test_columns import swe, xlam
from rollhouse.tests.interop.test_exports import TALK
from rollhouse.tests.interop.test_logs import FORMATS
from rollhouse.tests.rows import sum_rollout

Row = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "import.md"
HOLDS = ("tools", "reasoning", "call ids", "tokens", "logprobs", "reward", "truth", "sampling", "times")
# What an export says it has no place for, by what the table calls it; `messages` is all of them.
LOST = {"tokens": "token_ids", "logprobs": "logprobs", "reward": "reward", "truth": "task.ground_truth", "sampling": "temperature", "times": "started_at"}  # fmt: skip
SUFFIXES = {"inspect": ".eval", "parquet": ".parquet", "verl-prompt": ".parquet"}


def table() -> dict[str, dict[str, str]]:
    """The rows of the table by format; each names what its columns say."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    start = next(number for number, line in enumerate(lines) if line.startswith("| format | in "))
    names, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:])
    found = {}
    for cells in rows[1:]:
        if len(cells) != len(names):
            break
        for name in cells[0].split(","):
            found[name.strip(" `")] = dict(zip(names, cells, strict=True))
    return found


def held_by(store: LanceStore) -> set[str]:
    """What some rollout of a store has."""
    rows = store.read("rollouts").to_pylist()
    prompts = store.read("prompts").to_pylist()
    messages = [message for row in rows for message in (*row["messages"], *(one for prompt in prompts for one in prompt["messages"]))]  # fmt: skip
    found = {
        "tools": any(prompt["tools"] != "[]" for prompt in prompts),
        "reasoning": any(message["reasoning"] for message in messages),
        "call ids": any(message["tool_calls"] for message in messages) and all("no_call_ids" not in row["gaps"] for row in rows),
        "tokens": any(row["token_ids"] for row in rows),
        "logprobs": any(row["logprobs"] for row in rows),
        "reward": any(row["reward"] is not None for row in rows),
        "truth": any(task["ground_truth"] for task in store.read("tasks").to_pylist()),
        "sampling": any(row["temperature"] is not None for row in rows),
        "times": any(row["started_at"] for row in rows),
    }  # fmt: skip
    return {name for name, is_held in found.items() if is_held}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, set[str]]]:
    """By format, what an export of a rollout that has everything keeps, and what an import of such a file, or of a sample, brings."""
    folder = tmp_path_factory.mktemp("table")
    store = LanceStore.create(folder / "store")
    with start_run(store, "collect", "first", {}) as run, RolloutWriter(store, run, journal=False) as writer:
        everything = {"token_ids": [10, 11, 12, 13, 14], "loss_mask": [1, 1, 0, 0, 1], "temperature": 0.5}
        writer.add_many([sum_rollout(run.run_id, 0, messages=TALK, **everything)])
        run.finish({})
    files = {name: [write(folder / name)] for name, write in FORMATS.items()}
    files |= {"columns": [xlam(folder), swe(folder)], "verifiers-v0": [verifiers_v0(folder)]}
    chat = [{"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": "3"}]
    files["openai-chat"] = [samples.write_lines(folder / "chat.jsonl", [{"messages": chat, "reward": 1.0}])]
    found: dict[str, dict[str, set[str]]] = {}
    for name in EXPORTS:
        path = folder / f"{name}{SUFFIXES.get(name, '.jsonl')}"
        lost = set(export_file(store, name, path).lost)
        kept = {what for what in HOLDS if LOST.get(what, what) not in lost}
        if "messages" in lost:
            kept -= {"reasoning", "call ids"}
        kept -= {"reasoning"} if any(one.startswith("messages.reasoning") for one in lost) else set()
        kept -= {"call ids"} if "messages.tool_calls.id" in lost else set()
        found[name] = {"out": kept}
        files.setdefault(name, []).append(path)
    for name in IMPORTS:
        found.setdefault(name, {})["in"] = set()
        for number, file in enumerate(files[name]):
            other = LanceStore.create(folder / f"store-{name}-{number}")
            assert import_file(other, name, file).bad == 0
            found[name]["in"] |= held_by(other)
    return found


def verifiers_v0(folder: Path) -> Path:
    """A results.jsonl with its metadata."""
    samples.write_json(folder / "v0" / "metadata.json", {"env_id": "sums", "model": "small", "sampling_args": {"temperature": 0.5}})  # fmt: skip
    said = [{"role": "assistant", "content": "", "reasoning_content": "Add.", "tool_calls": [samples.chat_call()]}, {"role": "tool", "tool_call_id": "c1", "content": "3"}]  # fmt: skip
    row = {"example_id": 0, "prompt": [{"role": "user", "content": "1 + 2?"}], "completion": said, "reward": 1.0, "answer": "3", "tool_defs": [samples.TOOL], "metrics": {}, "timing": {"start_time": 1760000000.0}}  # fmt: skip
    return samples.write_lines(folder / "v0" / "results.jsonl", [row])


def test_the_table_says_what_each_format_holds(measured: dict[str, dict[str, set[str]]]) -> None:
    told = table()
    assert set(told) == {*IMPORTS, *EXPORTS}
    wrong = {}
    for name, row in told.items():
        assert (row["in"], row["out"]) == ("yes" if name in IMPORTS else "no", "yes" if name in EXPORTS else "no"), name
        held = {way: what for way, what in measured[name].items()}
        for what in HOLDS:
            ways = [way for way in ("in", "out") if what in held.get(way, set())]
            cell = "both" if len(ways) == 2 else ways[0] if ways else ""
            if cell != row[what]:
                wrong[name, what] = (cell, row[what])
    assert wrong == {}
