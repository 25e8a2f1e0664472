"""Signatures for comparing the texts of prompts: hashes of word n-grams, and MinHashes. Each is computed once per prompt and kept in the store.

Only user messages count, because every prompt of an environment shares its system message and tools. All hashes are the same on
every machine (order.py), so that the same prompts are near duplicates everywhere.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ..store.lance_store import LanceStore
from ..store.schema import Column, Table
from .order import hash_texts, mixed, seed_of

PERMUTATIONS = 128
SHINGLE_WORDS = 5
SHORT_WORDS = 13
"""Texts of fewer words are compared by their characters, because they have too few n-grams of words."""
SHORT_CHARACTERS = 5
_VERSION = 1
_FACTOR = 0xD6E8FEB86659FD93
_PROMPTS_AT_ONCE = 20_000
_SHINGLES_AT_ONCE = 1 << 17

# A cache that is part of no snapshot, as the leases are. Its folder may be deleted.
SIGNATURES = Table(
    "signatures",
    "Signatures of the texts of prompts, computed once.",
    "row_id",
    (
        Column("row_id", pa.string(), "prompt_id:method"),
        Column("prompt_id", pa.string(), "row of `prompts`"),
        Column("method", pa.string(), "grams:WORDS:VERSION or minhash:WORDS:PERMUTATIONS:VERSION"),
        Column("data", pa.large_binary(), "n-gram hashes of 64 bits, or MinHashes of 32, little-endian"),
    ),
)

Lists = tuple[np.ndarray, np.ndarray]
"""The start of each list (one more entry than lists), and the concatenated entries of all lists."""


def gram_lists(store: LanceStore, snapshot: str, prompts: pl.Series, words: int) -> Iterator[tuple[pl.Series, Lists]]:
    """The distinct n-gram hashes of each prompt, ascending, in parts: (prompt ids, Lists parallel to them)."""
    for ids, data in _kept(store, snapshot, prompts, f"grams:{words}:{_VERSION}", lambda texts: ngrams(texts, words)):
        sizes = data.bin.size(unit="b").to_numpy() // 8
        flat = np.frombuffer(b"".join(data.to_list()), "<u8")
        yield ids, (np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), flat)


def minhashes(store: LanceStore, snapshot: str, prompts: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Prompt ids, ascending, and parallel to them the MinHashes: shape (prompts, PERMUTATIONS), 32 bits each."""
    method = f"minhash:{SHINGLE_WORDS}:{PERMUTATIONS}:{_VERSION}"
    ids, rows = [], []
    for some, data in _kept(store, snapshot, prompts, method, _minhash_texts):
        ids.append(some)
        rows.append(np.frombuffer(b"".join(data.to_list()), "<u4").reshape(len(some), PERMUTATIONS))
    if not ids:
        return pl.Series(dtype=pl.String), np.zeros((0, PERMUTATIONS), np.uint32)
    return pl.concat(ids), np.concatenate(rows)


def ngrams(texts: pl.Series, words: int) -> Lists:
    """Hashes of the distinct word n-grams of each text, ascending; for a short text, of its character n-grams. Case and punctuation are ignored."""
    frame = pl.DataFrame({"words": texts.fill_null("").str.to_lowercase().str.extract_all(r"\w+")})
    frame = frame.with_columns(short=pl.col("words").list.len() < max(words, SHORT_WORDS))
    joined = pl.when("short").then(pl.col("words").list.join(" ")).otherwise(pl.lit(""))
    pieces = pl.when("short").then(joined.str.extract_all(r"(?s).")).otherwise("words")
    frame = frame.with_columns(pieces=pieces)
    pieces, short = frame["pieces"], frame["short"]
    starts = np.concatenate([[0], np.cumsum(pieces.list.len().to_numpy(), dtype=np.int64)])
    hashes = _hash_distinct(pieces.explode(empty_as_null=False))
    length = np.where(short.to_numpy(), SHORT_CHARACTERS, words)
    # N-grams of characters and of words get different hashes.
    return _distinct(*_windows(starts, hashes, length), short.to_numpy())


def minhash(lists: Lists) -> np.ndarray:
    """MinHashes (Broder 1997) of each list: the least of its entries under PERMUTATIONS multiply-shift hashes.

    Returns:
        uint32 of shape (lists, PERMUTATIONS). The share of equal places of two rows estimates the Jaccard similarity of their
        lists. An empty list has all bits set.
    """
    starts, flat = lists
    numbers = np.array([[seed_of("minhash", j, part) for part in "ab"] for j in range(PERMUTATIONS)], np.uint64)
    found = np.full((len(starts) - 1, PERMUTATIONS), 0xFFFFFFFF, np.uint32)
    some = np.flatnonzero(np.diff(starts))
    for low in _cuts(starts, some):
        rows = some[low]
        begin, end = starts[rows[0]], starts[rows[-1] + 1]
        values, edges = flat[begin:end], starts[rows] - begin
        for j, (a, b) in enumerate(numbers):
            permuted = ((values * (a | np.uint64(1)) + b) >> np.uint64(32)).astype(np.uint32)
            found[rows, j] = np.minimum.reduceat(permuted, edges)
    return found


def prompt_texts(store: LanceStore, snapshot: str, prompts: pl.Series) -> pl.DataFrame:
    """(prompt_id, text): the user messages of each prompt, ascending by id."""
    table = store.read("prompts", ["prompt_id", "messages"], at=snapshot)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    user = pl.element().struct.field("text").filter(pl.element().struct.field("role") == "user").fill_null("")
    frame = frame.filter(pl.col("prompt_id").is_in(prompts.implode()))
    return frame.select("prompt_id", text=pl.col("messages").list.eval(user).list.join("\n")).sort("prompt_id")


def _minhash_texts(texts: pl.Series) -> Lists:
    rows = minhash(ngrams(texts, SHINGLE_WORDS))
    return np.arange(len(rows) + 1, dtype=np.int64) * PERMUTATIONS, rows.ravel()


def _kept(
    store: LanceStore, snapshot: str, prompts: pl.Series, method: str, compute: Callable[[pl.Series], Lists]
) -> Iterator[tuple[pl.Series, pl.Series]]:
    """(ids, bytes) of every prompt, ascending by id: read from the cache, or computed and cached."""
    if not store.has_table(SIGNATURES.name):
        store.create_table(SIGNATURES)
    wanted = prompts.unique().sort()
    known = pl.from_arrow(store.read(SIGNATURES.name, ["prompt_id", "data"], f"method = '{method}'"))
    assert isinstance(known, pl.DataFrame)
    known = known.unique("prompt_id")
    missing = wanted.filter(~wanted.is_in(known["prompt_id"].implode()))
    if len(missing):
        texts = prompt_texts(store, snapshot, missing)
        made = [known]
        for some in texts.iter_slices(_PROMPTS_AT_ONCE):
            fresh = some.select("prompt_id", data=_as_bytes(compute(some["text"])))
            row_id = pl.concat_str(pl.col("prompt_id"), pl.lit(f":{method}"))
            rows = fresh.select(row_id=row_id, prompt_id="prompt_id", method=pl.lit(method), data="data").to_arrow()
            insert = store.lance_dataset(SIGNATURES.name).merge_insert(SIGNATURES.key).use_index(False)
            insert.when_not_matched_insert_all().execute(rows.cast(SIGNATURES.schema))
            made.append(fresh)
        known = pl.concat(made)
    known = known.filter(pl.col("prompt_id").is_in(wanted.implode())).sort("prompt_id")
    for some in known.iter_slices(_PROMPTS_AT_ONCE):
        yield some["prompt_id"], some["data"]


def _as_bytes(lists: Lists) -> pl.Series:
    starts, flat = lists
    data = pa.py_buffer(np.ascontiguousarray(flat).astype(flat.dtype.newbyteorder("<")))
    offsets = pa.py_buffer((starts * flat.dtype.itemsize).astype(np.int64))
    column: Any = pl.from_arrow(
        pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(starts) - 1, [None, offsets, data])
    )
    return column


def _hash_distinct(pieces: pl.Series) -> np.ndarray:
    """Hashes of the pieces; each distinct piece is hashed once."""
    encoded: Any = pieces.fill_null("").to_arrow()
    encoded = encoded.dictionary_encode()
    hashes = hash_texts(pl.Series(encoded.dictionary))
    return hashes[encoded.indices.to_numpy()] if len(encoded) else np.zeros(0, np.uint64)


def _windows(starts: np.ndarray, hashes: np.ndarray, length: np.ndarray) -> Lists:
    """A hash of every window of `length` entries in each list; of the whole list where it is shorter."""
    sizes = np.diff(starts)
    length = np.minimum(length, np.maximum(sizes, 1))
    counts = np.where(sizes > 0, sizes - length + 1, 0)
    edges = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    owner = np.repeat(np.arange(len(sizes)), counts)
    first = np.arange(edges[-1]) - edges[owner] + starts[owner]
    total = np.zeros(len(first), np.uint64)
    for place in range(int(length.max(initial=0))):
        inside = place < length[owner]
        at = np.minimum(first + place, max(len(hashes) - 1, 0))
        total = np.where(inside, total * np.uint64(_FACTOR) + hashes[at], total)
    return edges, mixed(total)


def _distinct(edges: np.ndarray, hashes: np.ndarray, short: np.ndarray) -> Lists:
    owner = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    hashes = np.where(short[owner], mixed(hashes), hashes) if len(hashes) else hashes
    order = np.lexsort((hashes, owner))
    owner, hashes = owner[order], hashes[order]
    fresh = np.ones(len(hashes), bool)
    fresh[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    counts = np.bincount(owner[fresh], minlength=len(edges) - 1)
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]), hashes[fresh]


def _cuts(starts: np.ndarray, rows: np.ndarray) -> Iterator[slice]:
    """Slices of `rows` (ascending, empty lists left out) with about _SHINGLES_AT_ONCE entries each, so that a slice fits in a CPU cache."""
    parts = starts[rows] // _SHINGLES_AT_ONCE
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(parts)) + 1, [len(rows)]])
    return (slice(low, high) for low, high in pairwise(bounds) if high > low)
