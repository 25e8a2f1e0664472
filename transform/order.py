"""Hashes and seeded orders that are the same on every machine and for every order of the input rows."""

from hashlib import sha256
from typing import Any

import numpy as np
import polars as pl

_K1, _K2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_WIDEST = 64  # bytes; a longer text is replaced by its digest


def shuffled(frame: pl.DataFrame, seed: int, *id_columns: str) -> pl.DataFrame:
    """The rows ordered by a hash of seed and ids; ties are ordered by id."""
    keys = np.full(frame.height, seed_of(seed), np.uint64)
    for column in id_columns:
        keys = mixed(keys + hash_texts(frame[column]))
    return frame.with_columns(pl.Series("_order", keys)).sort("_order", *id_columns).drop("_order")


def seed_of(*parts: Any) -> np.uint64:
    """64 bits from values whose repr is the same on every machine."""
    return np.uint64(int.from_bytes(sha256(repr(parts).encode()).digest()[:8], "little"))


def mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): every bit of the input changes every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * _K1
    values = (values ^ (values >> np.uint64(27))) * _K2
    return values ^ (values >> np.uint64(31))


def hash_texts(texts: pl.Series) -> np.ndarray:
    """A 64-bit hash of each text; null hashes as the empty text."""
    data = texts.fill_null("").cast(pl.Binary)
    lengths = data.bin.size(unit="b").to_numpy().astype(np.int64)
    if len(lengths) and lengths.max() > _WIDEST:
        short = [value if len(value) <= _WIDEST else sha256(value).digest() for value in data]
        data = pl.Series(short, dtype=pl.Binary)
        lengths = data.bin.size(unit="b").to_numpy().astype(np.int64)
    lanes = _lanes(data, lengths)
    hashes = mixed(lengths.astype(np.uint64) + _STEP)
    for number in range(lanes.shape[1]):
        # Only the bytes of the text count, not the padding up to the longest text.
        inside = lengths > 8 * number
        hashes = np.where(inside, mixed(hashes * _STEP + lanes[:, number]), hashes)
    return hashes


def _lanes(data: pl.Series, lengths: np.ndarray) -> np.ndarray:
    """The bytes of each value, padded with zeros, as little-endian numbers of eight bytes: shape (values, lanes)."""
    width = 8 * max(1, -(-int(lengths.max(initial=0)) // 8))
    flat = _bytes(data)
    if len(lengths) and (lengths == width).all():
        return flat.reshape(-1, width).view("<u8").astype(np.uint64)
    padded = np.zeros((len(lengths), width), np.uint8)
    padded[np.arange(width) < lengths[:, None]] = flat
    return padded.view("<u8").astype(np.uint64)


def _bytes(data: pl.Series) -> np.ndarray:
    """The concatenated bytes of the values, as Arrow stores them."""
    array = data.rechunk().to_arrow()
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(array.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
