"""Where records come from: files, compressed or not, and datasets of the hub."""

import gzip
from pathlib import Path
from typing import IO

HUB = "hf:"


def is_hub(path: Path | str) -> bool:
    """Whether it names a dataset of the hub: `hf:OWNER/NAME[:CONFIG][@SPLIT]`."""
    return str(path).startswith(HUB)


def open_text(path: Path) -> IO[bytes]:
    """A file as bytes, decompressed where its name ends in .gz or .zst."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        return pa.CompressedInputStream(str(path), "zstd")  # type: ignore[return-value]
    return path.open("rb")
