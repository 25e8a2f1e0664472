"""Stores on an object store: whether it can be trusted with commits."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import pyarrow as pa

from ..base.errors import StoreNotFound, WriteConflict, one_line

_WRITERS, _ROUNDS = 4, 3


@cache
def probe(uri: str) -> None:
    """Finds out whether the store keeps every commit when several writers commit at once. Asks each store's store once a process.

    A commit is a put that must fail when the object is there already. A store that overwrites it instead loses commits without a word.
    So several writers append to a small table at the same moments, and every row must be there afterwards. Raises WriteConflict when
    one is not, StoreNotFound when the store cannot be written.
    """
    import lance

    table = f"{uri.rstrip('/')}/.probe-{uuid.uuid4().hex}.lance"
    try:
        lance.write_dataset(_rows(0), table)
        try:
            _append_at_once(table)
            kept = lance.dataset(table).count_rows()
        finally:
            lance.LanceDataset.drop(table)
    except (OSError, ValueError) as error:
        raise StoreNotFound(
            f"The object store at {uri} cannot be written: {one_line(str(error).splitlines()[0])}",
            "docs/store.md names the variables for its endpoint and credentials.",
        ) from error
    if kept < _WRITERS * _ROUNDS:
        raise WriteConflict(
            f"The object store at {uri} lost {_WRITERS * _ROUNDS - kept} of {_WRITERS * _ROUNDS} commits made at once.",
            "It does not honour conditional puts (If-None-Match): use a store that does, or a disk.",
        )


def _append_at_once(table: str) -> None:
    import lance

    barrier = Barrier(_WRITERS, timeout=120)

    def work() -> None:
        for _ in range(_ROUNDS):
            barrier.wait()
            lance.write_dataset(_rows(1), table, mode="append")

    with ThreadPoolExecutor(_WRITERS) as pool:
        for done in [pool.submit(work) for _ in range(_WRITERS)]:
            done.result()


def _rows(n: int) -> pa.Table:
    return pa.table({"row": pa.array(range(n), pa.int32())})
