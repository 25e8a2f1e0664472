"""Files from strangers: ids that are paths, references out of a folder, values that no column holds. A bad record is set aside, the others come in."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollhouse.base.errors import FormatError, SchemaMismatch
from rollhouse.interop import files
from rollhouse.interop.exporting import export_file
from rollhouse.interop.importing import import_file
from rollhouse.store.adding import add_rollouts
from rollhouse.store.appending import append_rows
from rollhouse.store.ids import file_name
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.rollout import Rollout

SAID = [{"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": "3"}]
PATHS = ["../../x", "/tmp/x", "a/b", "..", ".hidden", "a\\b", "a\x1b[2Jb", "x" * 201, "a\nb"]


def parquet(path: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> Path:
    columns: dict[str, Any] = {
        name: [row.get(name) for row in rows] for name in {name: 0 for row in rows for name in row}
    }
    pq.write_table(pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()}), path)
    return path


def chat_row(**more: Any) -> dict[str, Any]:
    return {"prompt": SAID[:1], "messages": SAID[1:], **more}


def reasons(quarantine: str | None) -> list[str]:
    return [json.loads(line)["reason"] for line in Path(quarantine or "").read_text().splitlines()]


@pytest.mark.parametrize("column", ["rollout_id", "slot_id", "group_id", "episode_id"])
def test_ids_that_are_paths_are_set_aside(store: LanceStore, tmp_path: Path, column: str) -> None:
    rows = [chat_row(**{column: id}) for id in [*PATHS, "good-1"]]
    done = import_file(store, "parquet", parquet(tmp_path / "a.parquet", rows), max_bad=1)
    assert (done.added, done.bad) == (1, len(PATHS))
    assert all("is not an id" in reason for reason in reasons(done.quarantine))


@pytest.mark.parametrize("id", PATHS[:-2])
def test_python_adds_no_such_id_either(store: LanceStore, id: str) -> None:
    with pytest.raises(SchemaMismatch, match="is not an id"):
        add_rollouts(store, [Rollout(messages=SAID, rollout_id=id)])


@pytest.mark.parametrize("id", ["../../x", "/tmp/rollhouse-x", "a/../../b", "\x1b]0;t\x07"])
def test_an_export_writes_inside_its_folder(store: LanceStore, tmp_path: Path, id: str) -> None:
    add_rollouts(store, [Rollout(messages=SAID, rollout_id="good")], run="r")
    [row] = store.read("rollouts").to_pylist()
    append_rows(store, "rollouts", [row | {"rollout_id": id}])  # as an older version, or a stranger's store, has it
    before = set(tmp_path.rglob("*"))
    assert export_file(store, "atif", tmp_path / "deep" / "er" / "out").rollouts == 2
    made = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert {path.parent for path in made} == {tmp_path / "deep" / "er" / "out"} and len(made) == 2
    assert not Path("/tmp/rollhouse-x.json").exists()
    assert file_name(id) != file_name(id + "x") and "/" not in file_name(id)


def trajectory(**more: Any) -> dict[str, Any]:
    steps = [{"step_id": 1, "source": "user", "message": "1 + 2?"}, {"step_id": 2, "source": "agent", "message": "3"}]
    return {"schema_version": "ATIF-v1.6", "session_id": "s", "agent": {"name": "a"}, "steps": steps, **more}


def referring(reference: str) -> dict[str, Any]:
    found = trajectory(session_id="parent")
    found["steps"][1]["observation"] = {"results": [{"subagent_trajectory_ref": [{"trajectory_path": reference}]}]}
    return found


@pytest.mark.parametrize("way", ["trajectory_path", "continued", "absolute", "link", "linked file", "second hop"])
def test_references_stay_in_the_folder(store: LanceStore, tmp_path: Path, way: str) -> None:
    folder, private = tmp_path / "in" / "logs", tmp_path / "private.json"
    (folder / "sub").mkdir(parents=True)
    private.write_text(json.dumps(trajectory(session_id="private")))
    (folder / "sub" / "fine.json").write_text(json.dumps(trajectory(session_id="child")))
    (folder / "a.json").write_text(json.dumps(referring("sub/fine.json")))
    bad = referring(
        {"absolute": str(private), "link": "sub/link.json", "second hop": "sub/hop.json"}.get(way, "../../private.json")
    )
    if way == "continued":
        bad = trajectory(continued_trajectory_ref="../../private.json")
    elif way == "link":
        (folder / "sub" / "link.json").symlink_to(private)
    elif way == "second hop":
        (folder / "sub" / "hop.json").write_text(json.dumps(referring("../../../private.json")))
    if way == "linked file":
        (folder / "b.json").symlink_to(private)
    else:
        (folder / "b.json").write_text(json.dumps(bad))
    done = import_file(store, "atif", folder, max_bad=1)
    assert done.bad == 1 and "outside" in reasons(done.quarantine)[0]
    assert done.added == 2, "the parent and its own child"


HUGE = 10**400
DEEP = json.loads("[" * 900 + "]" * 900)
FIELDS = (
    "reward",
    "temperature",
    "step",
    "extra",
    "metadata",
    "score",
    "started_at",
    "sample_index",
    "messages",
    "group_id",
)
FORMS: dict[str, dict[str, Any] | None] = {
    "openai-chat": {"messages": SAID},
    "nemo-gym": None,
    "verifiers-v0": {"example_id": 1, "prompt": SAID[:1], "completion": SAID[1:]},
    "trl": {"messages": SAID},
    "atif": trajectory(),
}


@pytest.mark.parametrize("format", FORMS)
def test_what_a_value_raises_sets_its_line_aside(store: LanceStore, rows: Any, tmp_path: Path, format: str) -> None:
    good = FORMS[format] or rows.result()
    bad = [{**good, field: value} for field in FIELDS for value in (HUGE, -HUGE, 1e39, 2**63, DEEP)]
    if format == "atif":
        bad += [{**good, "extra": {"rollhouse": {**row, "rollout_id": "x"}}} for row in bad]
    listed = [good, *bad, good]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    done = import_file(store, format, tmp_path / "a.jsonl", max_bad=1)
    assert done.rows + done.bad == len(listed) and done.bad > 0
    set_aside = [json.loads(line)["line"] for line in Path(done.quarantine or "").read_text().splitlines()]
    assert {1, len(listed)}.isdisjoint(set_aside) and len(set_aside) == done.bad, (
        "the lines around the bad ones came in"
    )
    numbers = ("reward", "temperature", "top_p", "min_p")
    kept = store.read("rollouts", list(numbers)).to_pylist()
    assert all(abs(number) < 3.5e38 for row in kept for number in row.values() if number is not None)


@pytest.mark.parametrize("format", ["openai-chat", "atif"])
def test_a_compressed_file_that_expands_without_end_is_refused(
    store: LanceStore, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_FREE", 1 << 20)
    data = b'{"messages": "' + b"a" * (8 << 20) + b'"}\n'
    for name, packed in (("a.jsonl.gz", gzip.compress(data)), ("a.jsonl.zst", pa.compress(data, "zstd", asbytes=True))):
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(FormatError, match="expands to more than 200 times"):
            import_file(store, format, tmp_path / name)


def test_a_time_that_python_has_not_costs_its_row_alone(store: LanceStore, tmp_path: Path) -> None:
    rows = [chat_row(started_at=0), chat_row(started_at=2**62), chat_row(started_at=1)]
    file = parquet(tmp_path / "a.parquet", rows, started_at=pa.timestamp("us", tz="UTC"))
    done = import_file(store, "parquet", file, max_bad=1)
    assert (done.added, done.bad) == (2, 1)
    assert min(store.read("rollouts")["started_at"].to_pylist()) == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_damaged_parquet_file_is_said_to_be(store: LanceStore, tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", [chat_row(rollout_id=f"r{n}") for n in range(500)])
    data = bytearray(file.read_bytes())
    data[8:400] = bytes(392)
    file.write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.parquet is damaged"):
        import_file(store, "parquet", file)
