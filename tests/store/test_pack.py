"""`rollhouse pack` and `unpack`: runs of one store in another, ids kept, and packs that were made to do harm."""

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import rollhouse as rh
from rollhouse.base.errors import ConfigError, RollhouseError, WriteConflict
from rollhouse.cli.main import app
from rollhouse.store import unpacking
from rollhouse.store.runs import start_run
from rollhouse.train.checkpoints import save_checkpoint
from typer.testing import CliRunner


class Saved:
    """Something with weights that writes them where it is told."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def save_pretrained(self, folder: Path) -> None:
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def weights(value: float) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", value)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store with two collections, verdicts of another run on the first, a dataset over it, labels, metrics, and a run with two checkpoints."""
    store = rh.open(tmp_path_factory.mktemp("packing") / "source")
    for run in ("base", "other"):
        store.collect(env="workplace-mini", policy=rh.scripted(mistake_rate=0.5), num_repeats=2, limit=4, run=run)
    store.rescore(scorer="workplace-mini", of_run="base", run="again")
    store.snapshot("s1")
    store.build_sft("demos", at="s1", sql="select rollout_id from rollouts where run_id = 'base' and passed")
    store.label(store.sql("select min(rollout_id) id from rollouts where run_id = 'base'").rows()[0]["id"], "star")
    with start_run(store, "sft", "trained", {"policy": {}}) as run:
        run.metrics(1, {"train/loss": 0.5, "train/odd": float("nan")})
        tokenizer = Saved({"tokenizer.json": b"{}", "state.pt": b"not for strangers"})
        for step in (1, 2):
            save_checkpoint(store, run, Saved({"model.safetensors": weights(step), "config.json": b"{}"}), tokenizer, step)  # type: ignore[arg-type]  # fmt: skip
    return store


@pytest.fixture(scope="module")
def packed(source: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "runs.pack"
    source.pack(file, ["base", "again", "trained"], dataset=["demos@1"], checkpoints="last")
    return file


def contents(store: Any, table: str, where: str = "true") -> list[dict[str, Any]]:
    return sorted(store.read(table, filter=where).to_pylist(), key=repr)


def test_runs_arrive_whole_and_a_second_time_adds_nothing(source: Any, packed: Path, tmp_path: Path) -> None:
    target = rh.open(tmp_path / "target")
    target.collect(env="workplace-mini", policy=rh.scripted(), limit=2, run="own")
    done = target.unpack(packed)
    chosen = "run_id in ('base', 'again', 'trained')"
    for table in ("rollouts", "scores", "run_events", "metrics", "checkpoints"):
        assert repr(contents(target, table, chosen)) == repr(contents(source, table, chosen)), table
    assert done.waiting == {} and done.added["rollouts"] == 8
    assert target.check(deep=True) == []
    assert target.dataset("demos@1").to_polars().equals(source.dataset("demos@1").to_polars())
    assert [row["label"] for row in target.sql("select label from current_labels").rows()] == ["star"]
    folder = Path(target.uri) / "checkpoints" / "trained"
    assert [path.name for path in folder.iterdir()] == ["step_2"]
    assert (folder / "step_2" / "model.safetensors").read_bytes() == weights(2)
    assert not (folder / "step_2" / "state.pt").exists()
    assert any("state.pt" in note for note in done.notes) and any("1 of 2 checkpoints" in note for note in done.notes)
    versions = {table: target.lance_dataset(table).count_rows() for table in target.tables()}
    again = target.unpack(packed)
    assert (again.added, again.checkpoints) == ({}, [])
    assert {table: target.lance_dataset(table).count_rows() for table in target.tables()} == versions


def test_a_store_takes_its_own_pack(source: Any, packed: Path) -> None:
    assert source.unpack(packed).added == {}


def test_what_is_not_packed_is_said_and_waits(source: Any, tmp_path: Path) -> None:
    said = source.pack(tmp_path / "again.pack", ["again"])
    assert any("8 rows of scores" in note and "base" in note for note in said.notes)
    target = rh.open(tmp_path / "target")
    done = target.unpack(tmp_path / "again.pack")
    assert done.waiting == {"scores.rollout_id": 8} and target.check() == []
    noted = source.pack(tmp_path / "base.pack", ["base"])
    assert any("8 verdicts" in note and "again" in note for note in noted.notes)
    target.unpack(tmp_path / "base.pack")
    assert target.unpack(tmp_path / "again.pack").added == {"scores": 8}
    with pytest.raises(ConfigError, match="--run base"):
        source.pack(tmp_path / "no.pack", ["other"], dataset=["demos@1"])


def test_an_interrupted_unpack_is_repeated(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = rh.open(tmp_path / "target")
    insert = unpacking.insert_if_absent

    def stops(store: Any, table: str, rows: Any) -> int:
        if table == "metrics":
            raise KeyboardInterrupt
        return insert(store, table, rows)

    monkeypatch.setattr(unpacking, "insert_if_absent", stops)
    with pytest.raises(KeyboardInterrupt):
        target.unpack(packed)
    monkeypatch.undo()
    assert target.sql("select count(*) n from runs").rows() == [{"n": 0}]
    done = target.unpack(packed)
    assert done.present["rollouts"] == 8 and target.check(deep=True) == []


def test_an_id_with_other_content_is_refused_by_name(packed: Path, tmp_path: Path) -> None:
    target = rh.open(tmp_path / "target")
    target.collect(env="workplace-mini", policy=rh.scripted(), limit=1, run="base")
    before = {table: target.lance_dataset(table).version for table in target.tables()}
    with pytest.raises(WriteConflict, match="base"):
        target.unpack(packed)
    assert {table: target.lance_dataset(table).version for table in target.tables()} == before


def test_other_files_of_a_checkpoint_are_refused(packed: Path, tmp_path: Path) -> None:
    target = rh.open(tmp_path / "target")
    folder = Path(target.uri) / "checkpoints" / "trained" / "step_2"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights(3))
    with pytest.raises(WriteConflict, match="trained/step_2"):
        target.unpack(packed)
    assert target.sql("select count(*) n from rollouts").rows() == [{"n": 0}]


def test_on_the_command_line(source: Any, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    file, target = str(tmp_path / "base.pack"), str(tmp_path / "target")
    assert "8 verdicts" in run("pack", file, "--run", "base", "--store", source.uri)
    (done,) = json.loads(run("unpack", file, "--store", target, "--format", "json"))
    assert done["added"]["rollouts"] == 8
    nothing = CliRunner().invoke(app, ["pack", file, "--store", source.uri])
    assert nothing.exit_code == 2 and "--run" in nothing.output


Entries = dict[str, bytes]


def rewritten(packed: Path, file: Path, change: Callable[[Entries, dict[str, Any]], None], hashed: bool = True) -> Path:
    """The pack with changed entries or manifest; the manifest has the hashes of the changed entries unless `hashed` is false."""
    with zipfile.ZipFile(packed) as pack:
        entries = {name: pack.read(name) for name in pack.namelist()}
    manifest = json.loads(entries.pop("manifest.json"))
    change(entries, manifest)
    if hashed:
        manifest["entries"] = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in entries.items()}  # fmt: skip
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in entries.items():
            out.writestr(name, data)
        out.writestr("manifest.json", json.dumps(manifest))
    return file


def arrow(rows: pa.Table, compression: str | None = None) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, rows.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(rows)
    return out.getvalue().to_pybytes()


def table(entries: Entries, name: str) -> pa.Table:
    return pa.ipc.open_stream(entries[f"tables/{name}.arrow"]).read_all()


def put(entries: Entries, name: str, rows: pa.Table, compression: str | None = None) -> None:
    entries[f"tables/{name}.arrow"] = arrow(rows, compression)


def with_column(rows: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, name, pa.array(values, rows.schema.field(name).type))


def entry(name: str) -> Callable[[Entries, dict[str, Any]], None]:
    return lambda entries, _: entries.update({name: b"x"})


def columns(name: str, column: str, value: Any) -> Callable[[Entries, dict[str, Any]], None]:
    def change(entries: Entries, _: dict[str, Any]) -> None:
        rows = table(entries, name)
        put(entries, name, with_column(rows, column, [value] * rows.num_rows))

    return change


HOSTILE: dict[str, Callable[[Entries, dict[str, Any]], None]] = {
    "a path out of the folder": entry("checkpoints/../../evil.json"),
    "an absolute path": entry("/tmp/evil.json"),
    "a path with backslashes": entry("checkpoints\\trained\\evil.json"),
    "a folder in a checkpoint": entry("checkpoints/trained/step_2/../evil.json"),
    "a pickle": entry("checkpoints/trained/step_2/pytorch_model.bin"),
    "a program": entry("checkpoints/trained/step_2/modeling.py"),
    "a checkpoint of another run": entry("checkpoints/stranger/step_1/config.json"),
    "an unknown table": entry("tables/_leases.arrow"),
    "a mark of another run": lambda entries, _: entries.update({"checkpoints/trained/step_2/rollhouse.json": b'{"run": "x", "checkpoint": "trained/step_2"}'}),
    "a run that is a path": lambda _, manifest: manifest.update(runs=["../base"]),
    "a run without events": lambda _, manifest: manifest["runs"].append("more"),
    "rows of a run that is not named": lambda _, manifest: manifest["runs"].remove("base"),
    "no runs": lambda _, manifest: manifest.pop("runs"),
    "compressed Arrow": lambda entries, _: put(entries, "rollouts", table(entries, "rollouts"), "zstd"),
    "not Arrow": lambda entries, _: entries.update({"tables/rollouts.arrow": b"\xff\xff\xff\xff" + b"\x7f" * 200}),
    "half a table": lambda entries, _: entries.update({"tables/rollouts.arrow": entries["tables/rollouts.arrow"][:-3000]}),
    "an unknown column": lambda entries, _: put(entries, "rollouts", table(entries, "rollouts").append_column("evil", pa.nulls(8, pa.string()))),
    "a column of another type": lambda entries, _: put(entries, "rollouts", table(entries, "rollouts").drop_columns("reward").append_column("reward", pa.array(["1"] * 8))),
    "a dictionary": lambda entries, _: put(entries, "metrics", table(entries, "metrics").drop_columns("name").append_column("name", pa.array(["x", "x"]).dictionary_encode())),
    "no key": lambda entries, _: put(entries, "scores", table(entries, "scores").drop_columns("row_id")),
    "a key twice": columns("rollouts", "rollout_id", "0" * 32),
    "an id that is a path": columns("metrics", "row_id", "../../x"),
    "a checkpoint that lies elsewhere": columns("checkpoints", "path", "/etc"),
    "an endless reward": columns("rollouts", "reward", float("inf")),
    "an unknown status": columns("rollouts", "status", "fine"),
    "a snapshot that is a path": columns("snapshots", "name", "../s"),
}  # fmt: skip


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return rh.open(tmp_path_factory.mktemp("empty") / "target")


def refused(target: Any, file: Path, reason: str | None = None) -> None:
    before = {table: target.lance_dataset(table).version for table in target.tables()}
    with pytest.raises(RollhouseError, match=reason):
        target.unpack(file)
    assert {table: target.lance_dataset(table).version for table in target.tables()} == before


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_pack_is_refused_before_anything_is_written(how: str, packed: Path, empty: Any, tmp_path: Path) -> None:  # fmt: skip
    refused(empty, rewritten(packed, tmp_path / "x.pack", HOSTILE[how]))
    assert not (Path(empty.uri) / "checkpoints").exists() and not Path("/tmp/evil.json").exists()


def test_a_wrong_hash_or_size_is_refused(packed: Path, empty: Any, tmp_path: Path) -> None:
    def changed(entries: Entries, _: dict[str, Any]) -> None:
        entries["checkpoints/trained/step_2/model.safetensors"] = weights(9)

    refused(empty, rewritten(packed, tmp_path / "x.pack", changed, hashed=False), "manifest")
    refused(empty, rewritten(packed, tmp_path / "y.pack", lambda entries, _: entries.__delitem__("tables/scores.arrow"), hashed=False))  # fmt: skip


def test_a_later_format_is_refused_by_name(packed: Path, empty: Any, tmp_path: Path) -> None:
    newer = rewritten(packed, tmp_path / "x.pack", lambda _, manifest: manifest.update(pack=2, rollhouse="9.1.0"))
    refused(empty, newer, "9.1.0")


def test_a_bomb_is_not_expanded(packed: Path, empty: Any, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pack"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        with out.open("tables/rollouts.arrow", "w", force_zip64=True) as entry:
            for _ in range(257):
                entry.write(bytes(1 << 20))
        out.writestr("manifest.json", json.dumps({"pack": 1, "runs": ["a"], "entries": {"tables/rollouts.arrow": {}}}))
    assert bomb.stat().st_size < 1 << 20
    refused(empty, bomb, "expands")


@pytest.mark.parametrize("cut", [0, 10, -1, -30])
def test_a_file_that_is_no_pack_is_refused(cut: int, packed: Path, empty: Any, tmp_path: Path) -> None:
    (tmp_path / "x.pack").write_bytes(packed.read_bytes()[:cut])
    refused(empty, tmp_path / "x.pack")
    with pytest.raises(ConfigError):
        empty.unpack(tmp_path / "nothing.pack")
