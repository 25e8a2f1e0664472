"""Digests of responses, computed on Arrow columns, that tell which responses are equal.

The hashes are compared within one build and never stored, so they may use Polars' own hash, which can change between its versions.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute

from ..store.lance_store import LanceStore
from .order import mixed

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

_BATCH_ROWS, _BATCH_BYTES = 20_000, 64 << 20
_FACTOR = 0x9E3779B97F4A7C15
_KEY = r'"[^"\\]*"\s*:'
_IRREGULAR = ["  ", "\n", "\t", "\r"]


def with_digests(frame: pl.DataFrame, store: LanceStore, snapshot: str, wanted: Collection[str]) -> pl.DataFrame:
    """The frame with digests of each response. Messages are read by `offset`, in batches, for the rows of the frame only.

    Args:
        wanted: Which of these columns to add.
            response: A hash of assistant text (white space normalized), reasoning and tool calls, in order: equal hashes mean
                equal behaviour.
            path: A hash of tool names and argument keys, in order: the shape of the trajectory without its values.
            length: Sampled tokens when every row has them, else characters of text and arguments.
            called: The distinct names of the called tools.
            ends_in_text: Whether the last message is an assistant message with text and without a call.
            states, turns: Parallel lists of hashes, one entry per assistant message: of everything before it, and of itself.
                Call ids are ignored.
    """
    from_messages = set(wanted) - {"length"}
    length = pl.col("n_sampled_tokens")
    if frame["n_sampled_tokens"].has_nulls():
        from_messages, length = from_messages | {"chars"}, pl.col("chars")
    if from_messages:
        offsets = frame["offset"].sort()
        found = _two_at_a_time(lambda read: digests(read(), from_messages), _read(store, snapshot, offsets.to_numpy()))
        frame = frame.join(pl.concat(found).with_columns(offset=offsets), on="offset")
    return frame.with_columns(length=length.cast(pl.Int64)).drop("chars", strict=False)


def digests(messages: pa.ListArray, wanted: Collection[str]) -> pl.DataFrame:
    """One row per response: the columns of `with_digests`, and `chars` for the length."""
    starts, flat = _segments(messages)
    call_starts, calls = _segments(flat.field("tool_calls"))
    names, arguments = _texts(calls, "name"), _texts(calls, "arguments")
    role, text = _texts(flat, "role"), _texts(flat, "text")
    is_turn = (role == "assistant").to_numpy()
    turns, turn_starts = np.flatnonzero(is_turn), _counted(is_turn)[starts]
    found: dict[str, Any] = {}
    if not {"response", "states", "turns"}.isdisjoint(wanted):
        call = mixed(_hashed(names) + mixed(_hashed(arguments)))
        rest = mixed(_hashed(_texts(flat, "reasoning"))) + _in_order(call, call_starts)
        found["response"] = _in_order(_hashed(_normalized(text.gather(turns))) + rest[turns], turn_starts)
        if "states" in wanted:
            message = mixed(_hashed(role) + mixed(_hashed(text))) + rest
            before = _prefixes(message, starts)[turns]
            found |= {"states": _lists(before, turn_starts), "turns": _lists(message[turns], turn_starts)}
    if "path" in wanted:
        found["path"] = _in_order(mixed(_hashed(names) + _keys(arguments)), call_starts[starts])
    if "called" in wanted:
        found["called"] = _distinct(names, call_starts[starts])
    if not {"chars", "ends_in_text"}.isdisjoint(wanted):
        chars = text.str.len_chars().to_numpy().astype(np.int64)
        chars += _sums(arguments.str.len_chars().to_numpy(), call_starts)
        found["chars"] = _sums(chars * is_turn, starts)
        found["ends_in_text"] = _last(is_turn & (chars > 0) & (np.diff(call_starts) == 0), starts)
    return pl.DataFrame({name: column for name, column in found.items() if name in wanted})


def _read(store: LanceStore, snapshot: str, offsets: np.ndarray) -> Iterator[Callable[[], pa.ListArray]]:
    """Functions that return the messages at ascending offsets, some rows each."""
    dataset = store.lance_dataset("rollouts", snapshot)
    if len(offsets) < dataset.count_rows() // 4:
        for start in range(0, len(offsets), _BATCH_ROWS):
            some = offsets[start : start + _BATCH_ROWS].tolist()
            yield lambda some=some: dataset.take(some, columns=["messages"])["messages"].combine_chunks()
        return
    # For many rows a full scan is faster than reading by position.
    start = 0
    for batch in store.batches("rollouts", ["messages"], at=snapshot, max_bytes=_BATCH_BYTES):
        low, high = np.searchsorted(offsets, (start, start + batch.num_rows))
        if high > low:
            rows = pa.array(offsets[low:high].astype(np.int64) - start)
            yield lambda batch=batch, rows=rows: batch["messages"].take(rows)
        start += batch.num_rows


def _two_at_a_time(work: Callable[[Any], pl.DataFrame], parts: Iterable[Any]) -> Iterator[pl.DataFrame]:
    """The result of `work` for each part, in order. At most two parts are in memory besides the one being read."""
    with ThreadPoolExecutor(2) as pool:
        begun: deque[Future[pl.DataFrame]] = deque()
        for part in parts:
            begun.append(pool.submit(work, part))
            if len(begun) == 2:
                yield begun.popleft().result()
        for last in begun:
            yield last.result()


def _segments(lists: pa.ListArray) -> tuple[np.ndarray, Any]:
    """The start of each list in the concatenated values (one more entry than lists), and these values. Null is an empty list."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), lists.flatten()


def _texts(structs: Any, field: str) -> pl.Series:
    column = pl.from_arrow(structs.field(field))
    assert isinstance(column, pl.Series)
    return column.fill_null("") if column.null_count() else column


def _hashed(texts: pl.Series) -> np.ndarray:
    return texts.hash().to_numpy()


def _normalized(texts: pl.Series) -> pl.Series:
    """The texts with each run of white space as one space and none at the ends. Texts that are normalized already are not copied."""
    irregular = texts.str.contains_any(_IRREGULAR) | texts.str.starts_with(" ") | texts.str.ends_with(" ")
    if not irregular.any():
        return texts
    tidy = texts.filter(irregular).str.replace_all(r"\s+", " ").str.strip_chars()
    return texts.scatter(irregular.arg_true(), tidy)


def _keys(arguments: pl.Series) -> np.ndarray:
    """A hash of the keys in each JSON text, independent of their order."""
    keys = arguments.str.extract_all(_KEY)
    starts = np.concatenate([[0], np.cumsum(keys.list.len().to_numpy(), dtype=np.int64)])
    flat = keys.explode(empty_as_null=False).fill_null("")
    return _sums(mixed(_hashed(flat)), starts)


def _distinct(names: pl.Series, starts: np.ndarray) -> pl.Series:
    """The distinct names of each segment."""
    encoded: Any = names.to_arrow().dictionary_encode()
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    pairs = np.unique(owner * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy())
    owner, code = np.divmod(pairs, max(len(encoded.dictionary), 1))
    counts = np.bincount(owner, minlength=len(starts) - 1)
    named = encoded.dictionary.take(pa.array(code))
    listed = pl.from_arrow(pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(counts)]), named))
    assert isinstance(listed, pl.Series)
    return listed


def _counted(marks: np.ndarray) -> np.ndarray:
    """The number of marks before each position, and in total."""
    return np.concatenate([[0], np.cumsum(marks, dtype=np.int64)])


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    total = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values, dtype=values.dtype)])
    return total[starts[1:]] - total[starts[:-1]]


def _last(marks: np.ndarray, starts: np.ndarray) -> np.ndarray:
    last = np.zeros(len(starts) - 1, bool)
    some = starts[1:] > starts[:-1]
    last[some] = marks[starts[1:][some] - 1]
    return last


def _terms(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    # A polynomial in the position, modulo 2**64: the result depends on the order of the entries.
    place = np.arange(len(hashes)) - np.repeat(starts[:-1], np.diff(starts))
    powers = np.full(int(place.max(initial=0)) + 1, _FACTOR, np.uint64)
    powers[0] = 1
    return mixed(hashes) * np.cumprod(powers, dtype=np.uint64)[place]


def _in_order(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A hash of each segment that depends on the order of its entries."""
    return _sums(_terms(hashes, starts), starts)


def _prefixes(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """A hash of all entries before each entry in its segment."""
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_terms(hashes, starts), dtype=np.uint64)])
    return total[:-1] - np.repeat(total[starts[:-1]], np.diff(starts))


def _lists(values: np.ndarray, starts: np.ndarray) -> pl.Series:
    lists = pl.from_arrow(pa.LargeListArray.from_arrays(starts, pa.array(values)))
    assert isinstance(lists, pl.Series)
    return lists
