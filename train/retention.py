"""Which checkpoints of a run stay on the disk: the best by a metric, and the newest."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..store.lance_store import quote

if TYPE_CHECKING:
    from ..store.lance_store import LanceStore
    from .checkpoints import CheckpointingConfig

_NAMES = {"train/reward_mean": "train/reward"}


def metric_key(name: str) -> str:
    """A metric as the store names it: `val:accuracy` is `val/accuracy`, `train:reward_mean` is `train/reward`."""
    name = name.replace(":", "/", 1)
    return _NAMES.get(name, name)


def best_first(rows: list[dict[str, Any]], config: "CheckpointingConfig") -> list[dict[str, Any]]:
    """Rows of `checkpoints` by the metric, the newer first among equals; those without it (or with NaN) come last."""
    key, sign = metric_key(config.metric_name or ""), 1 if config.higher_is_better else -1

    def rank(row: Mapping[str, Any]) -> tuple[float, int, int]:
        value = json.loads(row["metrics"] or "{}").get(key)
        rated = sign * value if value is not None and math.isfinite(value) else -math.inf
        return (rated, row["incarnation"], row["step"])

    return sorted(rows, key=rank, reverse=True)


def keep_best(store: "LanceStore", run_id: str, config: "CheckpointingConfig") -> list[Path]:
    """Removes the folders of a run's checkpoints that are neither the newest nor among the `keep_top_k` best, and returns them.

    Their rows stay: what was trained is still known. Without keep_top_k nothing is removed; without a metric the newest are kept.
    """
    if config.keep_top_k is None:
        return []
    rows = store.read("checkpoints", filter=f"run_id = {quote(run_id)}").to_pylist()
    newest = max(rows, key=lambda row: (row["incarnation"], row["step"]), default=None)
    kept = {row["path"] for row in best_first(rows, config)[: config.keep_top_k]}
    kept |= {newest["path"]} if newest else set()
    gone = [Path(row["path"]) for row in rows if row["path"] not in kept and Path(row["path"]).is_dir()]
    for path in gone:
        shutil.rmtree(path)
    return gone
