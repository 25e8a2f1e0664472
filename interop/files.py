"""The bytes of a text file as other people write them: compressed, with a byte order mark, with bytes that are not UTF-8, over several lines."""

import codecs
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..base.errors import FormatError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LONE = re.compile("[\ud800-\udfff]")
_BETWEEN = " \t\r\n,"
_CHUNK = 1 << 20
_FREE, _RATIO = 256 << 20, 200
"""Bytes that any compressed file may expand to, and beyond them how many times its size."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """A file's bytes, decompressed and after a byte order mark, and how many of the file's own bytes were read so far.

    Raises FormatError when there is no such file, and for one that is UTF-16 or whose compressed data is damaged.
    """
    if not path.is_file():
        raise FormatError(f"There is no file {path}.", "Check the path.")
    with path.open("rb") as raw:
        start = raw.read(4)
        if start[:2] in _UTF_16:
            raise FormatError(f"{path} is UTF-16, not UTF-8.", "Convert it, for example with iconv.")
        raw.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
        try:
            yield _decompressed(raw, start), raw.tell
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            if not start.startswith((_GZIP, _ZSTD)):
                raise
            raise FormatError(f"The compressed data of {path} is damaged or incomplete ({error}).", "Copy the file again.") from error  # fmt: skip


class _Bounded(io.RawIOBase):
    """Decompressed bytes, as long as they are no multiple of the file's that no log reaches. Raises FormatError then."""

    def __init__(self, inner: Any, raw: IO[bytes]) -> None:
        self._inner, self._raw, self._given = inner, raw, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        self._given += len(data)
        if self._given > max(_FREE, _RATIO * self._raw.tell()):
            raise FormatError(f"The compressed file expands to more than {_RATIO} times its size.", "Decompress it first if it is to be trusted.")  # fmt: skip
        return len(data)


def _decompressed(raw: IO[bytes], start: bytes) -> IO[bytes]:
    if start.startswith(_GZIP):
        return io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=raw), raw))  # type: ignore[arg-type]
    if start.startswith(_ZSTD):
        import pyarrow as pa

        return io.BufferedReader(_Bounded(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"), raw), _CHUNK)
    return raw


def text_of_bytes(raw: bytes) -> str:
    """The text; a byte that is not UTF-8 is half a surrogate pair in it, which `load_json` replaces."""
    return raw.decode("utf-8", errors="surrogateescape")


def load_json(text: str) -> tuple[Any, bool]:
    """What JSON text holds, and whether halves of surrogate pairs in it became U+FFFD: no table and no tokenizer can hold them.

    Raises ValueError and RecursionError as json.loads does.
    """
    value = json.loads(text)
    if "\\ud" not in text and "\\uD" not in text and (text.isascii() or _LONE.search(text) is None):
        return value, False
    plain = json.dumps(value, ensure_ascii=False)
    cleaned = _LONE.sub("\ufffd", plain)
    return (value, False) if cleaned == plain else (json.loads(cleaned), True)


def text_or_mark(value: str | None) -> tuple[str | None, bool]:
    """The text with U+FFFD in place of what is not text, and whether there was any."""
    if value is None or value.isascii():
        return value, False
    cleaned = _LONE.sub("\ufffd", value)
    return cleaned, cleaned != value


def begins_over_lines(path: Path) -> bool:
    """Whether a file is a JSON array, or begins with an object whose lines are not objects themselves."""
    with opened(path) as (file, _):
        first = next((line for line in file if line.strip()), b"").strip()
    return first == b"{" or first.startswith(b"[")


def json_values(path: Path) -> Iterator[tuple[str, int]]:
    """The text of each value of a file that is a JSON array or values one after another, and the bytes of the file read so far.

    Memory holds one value. The last text is what could not be decoded, when something could not.
    """
    decoder, to_text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with opened(path) as (file, position):
        text, at, inside, size, more = "", 0, False, _CHUNK, True
        while True:
            while at < len(text) and text[at] in _BETWEEN:
                at += 1
            if at < len(text) and text[at] == ("]" if inside else "["):
                inside, at = not inside, at + 1
                continue
            try:
                if at == len(text):
                    raise ValueError("the text ends")
                end = decoder.raw_decode(text, at)[1]
            except (ValueError, RecursionError):
                if not more:
                    if text[at:].strip():
                        yield text[at:], position()
                    return
                added = file.read(size)
                more, size = bool(added), size * 2  # a long value is tried again only a few times
                text, at = text[at:] + to_text.decode(added, final=not added), 0
                continue
            yield text[at:end], position()
            at, size = end, _CHUNK
