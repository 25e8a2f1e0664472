"""The file of a pack: a ZIP of Arrow streams, checkpoint files and a manifest with the hash of each.

Nothing of a pack is believed before `PackReader` has compared every entry with the manifest: its name, size and SHA-256. Entries expand to at most
EXPANSION times their size, Arrow bodies are not compressed, and no entry is written to a path that it names itself.
"""

import hashlib
import json
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa

from ..base.errors import ConfigError, FormatError, StoreTooNew, one_line
from .tables import TABLES

FORMAT = 1
MANIFEST = "manifest.json"
EXPANSION = 200
FREE_BYTES = 256 << 20  # what any entry may expand to
MANIFEST_BYTES = 64 << 20
CHUNK = 1 << 20
RUN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
FILES = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}\.(?:safetensors|json|jinja|txt|model|md)")
"""Names of files of a checkpoint that travel: no pickle and no program is among them."""
_TABLE = re.compile(r"tables/([a-z_]+)\.arrow")
_CHECKPOINT = re.compile(rf"checkpoints/({RUN})/step_(\d{{1,9}})/({FILES.pattern})")
_BROKEN = (pa.ArrowException, zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, MemoryError, struct.error, NotImplementedError, RuntimeError)  # fmt: skip


class PackWriter:
    """Writes a pack beside `path` and moves it there when the `with` block ends without an error.

    Attributes:
        entries: Bytes and SHA-256 of each entry written so far, by name.
    """

    def __init__(self, path: Path, compress: bool = True) -> None:
        self.path, self.entries = path, {}
        self._partial = path.with_name(f".{path.name}.{os.getpid()}")
        self._method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED

    def __enter__(self) -> Self:
        self._zip = zipfile.ZipFile(self._partial, "x", self._method, compresslevel=1)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._zip.close()
        if error is None:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def table(self, name: str, batches: Iterable[pa.RecordBatch]) -> int:
        """Writes rows of a table and returns how many."""
        rows = 0
        with self._entry(f"tables/{name}.arrow") as out, pa.ipc.new_stream(out, _plain(TABLES[name].schema)) as stream:
            for batch in batches:
                stream.write_batch(batch.cast(_plain(TABLES[name].schema)))
                rows += batch.num_rows
        return rows

    def file(self, name: str, source: Path) -> None:
        """Copies a file into the pack."""
        with self._entry(name) as out, source.open("rb") as read:
            while chunk := read.read(CHUNK):
                out.write(chunk)

    def manifest(self, manifest: dict[str, Any]) -> None:
        """Writes the manifest, the last entry."""
        self._zip.writestr(MANIFEST, json.dumps(manifest | {"pack": FORMAT, "entries": self.entries}, ensure_ascii=False))  # fmt: skip

    def too_dense(self) -> bool:
        """Whether an entry is so repetitive that a reader would take it for a bomb: the pack is then written uncompressed."""
        return any(_is_bomb(info) for info in self._zip.infolist())

    def _entry(self, name: str) -> "_Hashed":
        return _Hashed(self._zip.open(name, "w", force_zip64=True), lambda found: self.entries.update({name: found}))


class _Hashed:
    """A file that is written, with its length and hash."""

    def __init__(self, file: IO[bytes], done: Callable[[dict[str, Any]], None]) -> None:
        self._file, self._done, self._digest, self._bytes, self.closed = file, done, hashlib.sha256(), 0, False

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self._bytes += memoryview(data).nbytes
        self._file.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._file.close()
            self._done({"bytes": self._bytes, "sha256": self._digest.hexdigest()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class PackReader:
    """An open pack whose entries all are what the manifest says.

    Raises ConfigError for a file that is not there, StoreTooNew for a later format, FormatError for anything that is not as a pack is.

    Attributes:
        manifest: `runs`, `datasets`, `entries` and the rest of the manifest.
        checkpoints: By (run, step): the names of its files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = tempfile.TemporaryDirectory(prefix="rollhouse-unpack-")
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise ConfigError(f"There is no file {path}.", "Name a file that `rollhouse pack` wrote.") from None
        except _BROKEN as error:
            raise self._broken(f"it is no pack ({one_line(error, 100)})") from error
        try:
            self.manifest = self._manifest()
            self.checkpoints: dict[tuple[str, int], list[str]] = {}
            self._compare()
        except _BROKEN as error:
            self.close()
            raise self._broken(one_line(error, 200)) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file and removes what was expanded."""
        self._zip.close()
        self._folder.cleanup()

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        """The rows of a table in batches; none when the pack has no such table. Raises FormatError for rows that do not fit it."""
        file = Path(self._folder.name) / table
        if not file.exists():
            return
        try:
            yield from _read_batches(file, table)
        except _BROKEN as error:
            raise self._broken(f"table {table}: {one_line(error, 200)}") from error

    def copy(self, run: str, step: int, folder: Path) -> None:
        """Writes the files of a checkpoint into a folder, which must exist."""
        for file in self.checkpoints[run, step]:
            with self._zip.open(f"checkpoints/{run}/step_{step}/{file}") as read, (folder / file).open("xb") as out:
                while chunk := read.read(CHUNK):
                    out.write(chunk)

    def json(self, run: str, step: int, file: str) -> Any:
        """A small JSON file of a checkpoint. Raises FormatError when it is none."""
        try:
            with self._zip.open(f"checkpoints/{run}/step_{step}/{file}") as read:
                return json.loads(read.read(CHUNK))
        except (*_BROKEN, RecursionError) as error:
            raise self._broken(f"{file} of checkpoint {run}/step_{step} is no JSON") from error

    def sha256(self, run: str, step: int, file: str) -> str:
        """The hash of a file of a checkpoint."""
        return self.manifest["entries"][f"checkpoints/{run}/step_{step}/{file}"]["sha256"]

    def _broken(self, what: str) -> FormatError:
        return FormatError(f"{self.path} cannot be unpacked: {what}.", "Nothing was written. Pack the runs again.")

    def _manifest(self) -> dict[str, Any]:
        names = [info.filename for info in self._zip.infolist()]
        if MANIFEST not in names or len(names) != len({name.casefold() for name in names}):
            raise self._broken("it has no manifest, or an entry twice")
        if self._zip.getinfo(MANIFEST).file_size > MANIFEST_BYTES or _is_bomb(self._zip.getinfo(MANIFEST)):
            raise self._broken("its manifest is too large")
        try:
            found = json.loads(self._zip.read(MANIFEST))
            number, by = int(found["pack"]), str(found.get("rollhouse"))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise self._broken("its manifest cannot be read") from error
        if number > FORMAT:
            raise StoreTooNew(f"The pack {self.path} has format {number}, written by rollhouse {one_line(by, 40)}; this rollhouse reads formats up to {FORMAT}.", "Install that rollhouse or a later one.")  # fmt: skip
        runs, entries = found.get("runs"), found.get("entries")
        if not isinstance(runs, list) or not all(isinstance(run, str) and re.fullmatch(RUN, run) for run in runs):
            raise self._broken("its manifest names no runs, or one with an unfit name")
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise self._broken("its manifest names no entries")
        if {*entries, MANIFEST} != set(names):
            raise self._broken(
                f"{min({*entries, MANIFEST} ^ set(names))[:100]!r} is in the file or in its manifest alone"
            )
        return found

    def _compare(self) -> None:
        infos = self._zip.infolist()
        if sum(info.compress_size for info in infos) > self.path.stat().st_size:
            raise self._broken("its entries overlap")
        for info in infos:
            if info.filename == MANIFEST:
                continue
            table, checkpoint = _TABLE.fullmatch(info.filename), _CHECKPOINT.fullmatch(info.filename)
            if not (table and table[1] in TABLES) and not (checkpoint and checkpoint[1] in self.manifest["runs"]):
                raise self._broken(f"it has an entry {info.filename[:100]!r}, which is no table and no checkpoint of its runs")  # fmt: skip
            if _is_bomb(info):
                raise self._broken(f"{info.filename} expands to more than {EXPANSION} times its size")
            expected = self.manifest["entries"][info.filename]
            if info.file_size != expected.get("bytes") or self._sha256(info, table) != expected.get("sha256"):
                raise self._broken(f"{info.filename} is not what the manifest says")
            if checkpoint:
                self.checkpoints.setdefault((checkpoint[1], int(checkpoint[2])), []).append(checkpoint[3])

    def _sha256(self, info: zipfile.ZipInfo, table: re.Match[str] | None) -> str:
        """The hash of an entry. A table is kept in a folder of ours, which Arrow maps into memory."""
        digest = hashlib.sha256()
        kept = Path(self._folder.name) / table[1] if table else Path(os.devnull)
        with self._zip.open(info) as read, kept.open("wb") as out:
            while chunk := read.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
        return digest.hexdigest()


def _is_bomb(info: zipfile.ZipInfo) -> bool:
    return info.file_size > max(FREE_BYTES, EXPANSION * info.compress_size)


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema without Lance's marks, which are the business of the store that writes the rows."""
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def _plain_type(type: pa.DataType) -> pa.DataType:
    return pa.list_(type.value_type) if pa.types.is_list(type) else type


def _read_batches(file: Path, table: str) -> Iterator[pa.RecordBatch]:
    """Rows of an Arrow stream without compressed bodies, of columns of the table in its types, with every offset and text checked."""
    expected = {field.name: field.type for field in _plain(TABLES[table].schema)}
    with pa.memory_map(str(file)) as source:
        first = pa.ipc.read_message(source)
        schema = pa.ipc.read_schema(first)
        for field in schema:
            if field.name not in expected or field.type != expected[field.name]:
                raise ValueError(f"column {field.name[:80]!r} is not one that this rollhouse has, or of another type")
        if len(set(schema.names)) != len(schema.names) or TABLES[table].key not in schema.names:
            raise ValueError("a column is there twice, or the key is missing")
        while True:
            try:
                message = pa.ipc.read_message(source)
            except EOFError:
                return
            if message.type != "record batch" or _is_compressed(message.metadata):
                raise ValueError("it has something else than plain record batches")
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate(full=True)
            yield batch


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether the flatbuffer of a record batch names a compression, field 3 of its table (Arrow's Message.fbs)."""
    data = metadata.to_pybytes()
    header = _field(data, struct.unpack_from("<I", data)[0], 2)
    return header is None or _field(data, header + struct.unpack_from("<I", data, header)[0], 3) is not None


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer table lies; None when it is absent."""
    slots = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, slots)[0]
    offset = struct.unpack_from("<H", data, slots + 4 + 2 * number)[0] if 4 + 2 * number < size else 0
    return table + offset if offset else None
