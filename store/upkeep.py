"""Upkeep that runs by itself: whoever writes a store joins its small pieces and thins its versions now and then, in the background.

Many small commits leave many small fragments, and each version lists all of them, so both grow with the square of the commits. A writer
therefore looks at a table every few commits and, when it is due, has a thread of its own do what `compact` does. Appends go on meanwhile:
Lance lets them pass. Only the holder of the maintenance lease works; whoever finds it taken leaves the work to the holder.
"""

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from ..base.errors import DamagedStore, WriteConflict
from . import hashes
from . import lease as leases
from .lance_store import LanceStore
from .lease import LEASES

log = logging.getLogger("rollhouse")

# Fragments grow tier by tier, so that a row is rewritten once a tier and not once a compaction.
TIERS = (1_000, 25_000, 250_000)
# Below this many rows a tier's fragments are encoded anew, which joins their tiny pages; above, pages are copied as they are, in little memory.
_REENCODED_ROWS = 5_000
_INDEXED = {"rollouts": ("run_id", "step", "task_id", "status")}
_NEWEST = 100


@dataclass(frozen=True)
class UpkeepPolicy:
    """When upkeep is due.

    Attributes:
        fragments: So many fragments of one tier are joined.
        look_every: Commits of one table between two looks at it.
        versions: More versions than that are thinned: those between two appends go, except the newest 100 and those that snapshots name.
        retention: Older versions go when there are more than `versions`. What compaction replaced is kept as long, for readers.
        index_rows: From this many rows on, the columns people filter on have indices; never a key.
    """

    fragments: int = 100
    look_every: int = 16
    versions: int = 300
    retention: timedelta = timedelta(hours=1)
    index_rows: int = 250_000


class Upkeep:
    """One process's share in a store's upkeep. A failure of it is logged and never reaches the writer."""

    def __init__(self, store: LanceStore, policy: UpkeepPolicy | None = None) -> None:
        self.store = store
        self.policy = policy or UpkeepPolicy()
        self._commits: Counter[str] = Counter()
        self._thread: threading.Thread | None = None

    def wrote(self, table: str) -> None:
        """Tells of a commit; starts the upkeep when it is due and none is running."""
        self._commits[table] += 1
        if self._commits[table] % self.policy.look_every or (self._thread and self._thread.is_alive()):
            return
        if _is_due(self.store.lance_dataset(table), self.policy):
            self._thread = threading.Thread(target=self._work, name="rollhouse-upkeep", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until nothing is running here."""
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            maintain(self.store, self.policy)
        except WriteConflict:
            log.debug("upkeep of %s is somebody else's just now", self.store.uri)
        except Exception:
            log.warning("upkeep of %s failed; `rollhouse compact` does it by hand", self.store.uri, exc_info=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_thread": None}


def maintain(store: LanceStore, policy: UpkeepPolicy) -> None:
    """Joins fragments, thins versions and brings indices up to date, in every table where it is due.

    Raises WriteConflict while other maintenance runs.
    """
    lease = leases.take(store, "maintenance")
    try:
        for table in (*store.tables(), LEASES.name):
            if _is_due(store.lance_dataset(table), policy):
                join_fragments(store, table, policy.fragments)
                _thin_versions(store, table, policy)
                _index(store, table, policy)
            lease.check()
    finally:
        lease.release()


def join_fragments(store: LanceStore, table: str, at_least: int) -> None:
    """Joins the fragments of each tier that has at least N. Contents and snapshots stay as they are.

    Rows stay in order too, except those appended meanwhile. Raises DamagedStore when a file to be joined is not what was written.
    """
    for rows in TIERS:
        small = [part for part in store.lance_dataset(table).get_fragments() if part.metadata.num_rows < rows]
        if len(small) >= at_least:
            _refuse_damage(store, table, small)
            total = sum(part.metadata.num_rows for part in small)
            mode: Any = "reencode" if total <= _REENCODED_ROWS else "try_binary_copy"
            last = hashes.last_fragment(store.lance_dataset(table))
            # One thread keeps the order of rows.
            _retried(
                lambda rows=rows, mode=mode: store.lance_dataset(table).optimize.compact_files(
                    target_rows_per_fragment=rows, num_threads=1, compaction_mode=mode
                )
            )
            hashes.record_new(store, table, store.lance_dataset(table), last)


def _refuse_damage(store: LanceStore, table: str, fragments: list[Any]) -> None:
    # A copy of damaged bytes would get a hash of its own, and look whole.
    damaged = hashes.changed(store, table, hashes.files_of(fragments))
    if damaged:
        raise DamagedStore(f"Table {table} is damaged: data/{damaged[0]} is not what was written.", "`rollhouse check` names the rows; `check --salvage` leaves them out.")  # fmt: skip


def _is_due(dataset: Any, policy: UpkeepPolicy) -> bool:
    sizes = _sizes(dataset)
    return any(sum(size < rows for size in sizes) >= policy.fragments for rows in TIERS)


def _sizes(dataset: Any) -> list[int]:
    return [fragment.metadata.num_rows for fragment in dataset.get_fragments()]


def _thin_versions(store: LanceStore, table: str, policy: UpkeepPolicy) -> None:
    dataset = store.lance_dataset(table)
    versions: list[Any] = dataset.versions()
    if len(versions) <= policy.versions:
        return
    spare = _spare_versions(versions, {tag["version"] for tag in dataset.tags.list().values()}, policy.retention)
    if spare:
        dataset.cleanup_old_versions(versions=spare, error_if_tagged_old_versions=False)


def _spare_versions(versions: list[Any], tagged: set[int], retention: timedelta) -> list[int]:
    """Versions that can go: untagged, not among the newest, and either old or between two appends.

    The version before a compaction lists every file that the compaction replaced. As long as it is there, a reader that opened any
    version since the compaction before keeps its files.
    """
    steps = [_only_appended(before["metadata"], after["metadata"]) for before, after in pairwise(versions)]
    spare = []
    for number in range(len(versions) - _NEWEST):
        # Lance gives the time of each commit without a zone, in the machine's own. A version is old when the next one is.
        old = datetime.now(UTC) - versions[number + 1]["timestamp"].astimezone(UTC) > retention
        between = number > 0 and steps[number - 1] and steps[number]
        if versions[number]["version"] not in tagged and (old or between):
            spare.append(versions[number]["version"])
    return spare


def _only_appended(before: dict[str, str], after: dict[str, str]) -> bool:
    more = all(int(after[name]) >= int(before[name]) for name in ("total_data_files", "total_fragments", "total_rows"))
    return more and after["total_deletion_files"] == before["total_deletion_files"]


def _index(store: LanceStore, table: str, policy: UpkeepPolicy) -> None:
    columns = _INDEXED.get(table, ())
    dataset = store.lance_dataset(table)
    if not columns or dataset.count_rows() < policy.index_rows:
        return
    there = {name for index in dataset.describe_indices() for name in index.field_names}
    for column in columns:
        if column not in there:
            # BITMAP: LanceDB's older core does not know pylance's BTREE and warns at every use of the table.
            _retried(lambda column=column: store.lance_dataset(table).create_scalar_index(column, "BITMAP"))
    _retried(lambda: store.lance_dataset(table).optimize.optimize_indices())


def _retried(work: Any) -> None:
    from lance.commit import CommitConflictError

    for attempt in range(5):
        try:
            work()
            return
        except CommitConflictError:
            if attempt == 4:
                raise
