"""Which run this is, where its name is not enough."""

from typing import TYPE_CHECKING

from ..store.ids import hash_id
from ..store.runs import get_run

if TYPE_CHECKING:
    from ..store.lance_store import LanceStore
    from ..store.runs import Run


def run_identity(run: "Run") -> str:
    """12 hex digits that two runs of one name in two stores do not share, and that a run keeps when it goes on or its store is moved."""
    return identity_of(run.store, run.run_id)


def identity_of(store: "LanceStore", run_id: str) -> str:
    """run_identity of a run that another process may have written."""
    return hash_id(run_id, get_run(store, run_id)["started_at"].timestamp())[:12]
