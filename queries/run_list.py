"""The runs of a store as people look at them: whether they still run, and what they have collected."""

from typing import Any

from ..store import lease
from ..store.lance_store import LanceStore
from ..store.runs import list_runs
from . import session

STALE = "stale"
"""Status of a run that has no end and whose process is gone. The view `runs` calls it `running`."""

_COUNTS = """
    SELECT run_id, count(*) AS rollouts, avg(reward) AS mean_reward, max(started_at + to_microseconds((coalesce(duration_s, 0) * 1e6)::BIGINT)) AS last_sign
    FROM final_rollouts GROUP BY run_id"""
_SIGNS = "SELECT run_id, max(step) AS step, max(created_at) AS last_sign FROM metrics GROUP BY run_id"


def listed_runs(store: LanceStore, at: str | None = None) -> list[dict[str, Any]]:
    """Every run, oldest first, with the keys of `list_runs` and: rollouts (last attempts), mean_reward (None without rewards), progress and last_sign.

    `progress` is `step N` of a run that trains, `DONE/PLANNED` of a finished collection, None where neither is known. `last_sign` is the time of the
    newest event, metric or rollout.

    `status` is `stale` for a run without an end whose process is gone; of the past (`at`), that is not known.
    """
    counts = {row["run_id"]: row for row in session.sql(store, _COUNTS, at).to_pylist()}
    signs = {row["run_id"]: row for row in session.sql(store, _SIGNS, at).to_pylist()}
    runs = list_runs(store)
    for run in runs:
        found = counts.get(run["run_id"], {})
        run["rollouts"], run["mean_reward"] = found.get("rollouts", 0), found.get("mean_reward")
        sign = signs.get(run["run_id"], {})
        times = [found.get("last_sign"), sign.get("last_sign"), run["finished_at"], run["started_at"]]
        run["progress"] = _progress(run, sign.get("step"))
        run["last_sign"] = max((time for time in times if time is not None), default=None)
        if run["status"] == "running" and at is None and lease.holder_of(store, f"run/{run['run_id']}") is None:
            run["status"] = STALE
    return runs


def _progress(run: dict[str, Any], step: int | None) -> str | None:
    if step is not None:
        return f"step {step}"
    planned = (run["summary"] or {}).get("planned")
    return f"{run['rollouts']}/{planned}" if planned else None
