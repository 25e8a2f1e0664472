"""The members of Inspect's `.eval` files: a zip whose members may be compressed with Zstandard, which Python's `zipfile` cannot read yet."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa

_ZSTANDARD = 93
_LOCAL_HEADER = 30


class Archive:
    """An open archive.

    Attributes:
        names: Of its members, in the order of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._zip = zipfile.ZipFile(self._file)
        self._members = {info.filename: info for info in self._zip.infolist()}
        self.names = list(self._members)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def json(self, name: str, default: Any = None) -> Any:
        """A member's JSON value; `default` when there is no such member. Raises ValueError when it is not JSON or cannot be decompressed."""
        return json.loads(self.read(name)) if name in self._members else default

    def read(self, name: str) -> bytes:
        """A member's bytes. Raises ValueError when it cannot be decompressed."""
        info = self._members[name]
        if info.compress_type != _ZSTANDARD:
            try:
                return self._zip.read(info)
            except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
                raise ValueError(f"{name} cannot be decompressed ({error})") from error
        self._file.seek(info.header_offset)
        # The lengths of name and extra field in the local header may differ from those in the directory.
        name_length, extra_length = struct.unpack("<HH", self._file.read(_LOCAL_HEADER)[26:30])
        self._file.seek(info.header_offset + _LOCAL_HEADER + name_length + extra_length)
        packed = self._file.read(info.compress_size)
        try:
            with pa.CompressedInputStream(io.BytesIO(packed), "zstd") as stream:
                return stream.read()
        except OSError as error:
            raise ValueError(f"{name} cannot be decompressed ({error})") from error
