"""The runs page, and one run: metrics, settings, checkpoints."""

from collections.abc import Sequence
from typing import Any

from ..base.errors import StoreNotFound
from ..store.lease import LEASES, holder_of
from .filters import PLANNED
from .reader import Reader
from .rollout import parsed

_RUNS = "SELECT run_id, kind, name, status, started_at, finished_at, incarnation, config, summary FROM runs"
_SPARK_POINTS = 60
_SCATTER_POINTS = 5_000


def listed(reader: Reader) -> list[dict[str, Any]]:
    """Every run, newest first: status (`stale` when its writer is gone), rollouts, pass rate, failures, tokens, model, dataset and `spark` (its reward, else its loss, by step)."""
    runs = reader.rows(f"{_RUNS} ORDER BY started_at DESC")
    query = """SELECT run_id, count(*) AS rollouts, avg(reward) AS reward, avg(passed::INT) AS pass_rate,
      count(*) FILTER (WHERE status NOT IN ('completed', 'truncated')) AS failures, sum(n_sampled_tokens) AS tokens, any_value(environment) AS environment, max(step) AS step
    FROM rollouts GROUP BY run_id"""
    counted = {row["run_id"]: row for row in reader.rows(query)}
    sparks = _sparks(reader)
    for run in runs:
        config, run["summary"] = parsed(run.pop("config")) or {}, None
        run |= counted.get(run["run_id"], {"rollouts": 0})
        run["status"] = status(reader, run)
        run |= {
            "model": _deep(config, ("model_name", "model", "engine")),
            "dataset": _deep(config, ("dataset",)),
            "spark": sparks.get(run["run_id"]),
        }
    return runs


def status(reader: Reader, run: dict[str, Any]) -> str:
    """The status of the events, or `stale`: the run neither ended nor has a living writer."""
    store = reader.store
    if run["status"] != "running" or not store.has_table(LEASES.name) or store.at is not None:
        return run["status"]
    return "running" if holder_of(store, f"run/{run['run_id']}") else "stale"


def one(reader: Reader, run_id: str) -> dict[str, Any]:
    """A run with its configuration, summary, events, metric names, checkpoints, and what its steps left out by reason. Raises StoreNotFound."""
    run = reader.row(f"{_RUNS} WHERE run_id = $run", run=run_id)
    if run is None:
        raise StoreNotFound(f"There is no run {run_id!r} in {reader.store.uri}.", "The runs page lists them.")
    run |= {"config": parsed(run["config"]), "summary": parsed(run["summary"]), "status": status(reader, run)}
    run["resumes"] = reader.rows(
        "SELECT event, incarnation, created_at FROM run_events WHERE run_id = $run AND event <> 'note' ORDER BY sequence",
        run=run_id,
    )
    run["metrics"] = [
        row["name"]
        for row in reader.rows("SELECT DISTINCT name FROM metrics WHERE run_id = $run ORDER BY name", run=run_id)
    ]
    run["checkpoints"] = reader.rows(
        "SELECT checkpoint_id, step, path, weights_hash, dataset, metrics, created_at FROM checkpoints WHERE run_id = $run ORDER BY step",
        run=run_id,
    )
    for row in run["checkpoints"]:
        row["metrics"] = parsed(row["metrics"])
    run["dropped"] = reader.rows(
        f"SELECT step, reason, count(*) AS n FROM {PLANNED} WHERE run_id = $run AND NOT kept GROUP BY ALL ORDER BY step, n DESC",
        run=run_id,
    )
    run["validations"] = _validations(reader, run_id)
    counted = "SELECT count(*) AS n, avg(reward) AS reward, avg(passed::INT) AS pass_rate, sum(n_sampled_tokens) AS tokens FROM rollouts WHERE run_id = $run"
    run["rollouts"] = reader.row(counted, run=run_id)
    return run


def _validations(reader: Reader, run_id: str) -> list[dict[str, Any]]:
    """The evaluations that a training run made of itself, by step: run_id, step, status, pass_rate, stderr and n (null before the end)."""
    query = f"{_RUNS} WHERE kind = 'eval' AND contains(config, $run)"
    found = []
    for row in reader.rows(query, run=run_id):
        config, summary = parsed(row["config"]), parsed(row["summary"])
        if not isinstance(config, dict) or config.get("run") != run_id or not isinstance(config.get("step"), int):
            continue
        numbers = summary if isinstance(summary, dict) else {}
        found.append(
            {"run_id": row["run_id"], "step": config["step"], "status": status(reader, row)}
            | {name: numbers.get(name) for name in ("pass_rate", "stderr", "n")}
        )
    return sorted(found, key=lambda row: (row["step"], row["run_id"]))


def curves(reader: Reader, run_ids: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, list[list[float]]]]:
    """run → metric → [steps, values], by step; of several incarnations of a step the last counts."""
    found: dict[str, dict[str, list[list[float]]]] = {run: {} for run in run_ids}
    query = """SELECT run_id, name, step, arg_max(value, incarnation) AS value FROM metrics
    WHERE list_contains($runs::VARCHAR[], run_id) AND list_contains($names::VARCHAR[], name) GROUP BY run_id, name, step ORDER BY run_id, name, step"""
    for row in reader.rows(query, runs=list(run_ids), names=list(names)):
        steps, values = found[row["run_id"]].setdefault(row["name"], [[], []])
        steps.append(row["step"])
        values.append(row["value"])
    return found


def scatter(reader: Reader, run_id: str) -> dict[str, Any]:
    """Rollouts of a run as points, at most 5,000 of them evenly over their order: parallel lists, and the total."""
    total = (reader.row("SELECT count(*) AS n FROM rollouts WHERE run_id = $run", run=run_id) or {"n": 0})["n"]
    every = max(1, -(-total // _SCATTER_POINTS))
    query = f"""SELECT r.rollout_id AS rollout_id, r.step AS step, r.reward AS reward, r.status AS status, r.environment AS environment, category,
      plan_version - r.policy_version AS staleness, row_number() OVER (ORDER BY r.step, r.started_at, r.rollout_id) - 1 AS place
    FROM rollouts AS r LEFT JOIN (SELECT task_id, category FROM tasks) AS t ON t.task_id = r.task_id
    LEFT JOIN (SELECT rollout_id, plan_version FROM {PLANNED} WHERE run_id = $run) AS p ON p.rollout_id = r.rollout_id
    WHERE r.run_id = $run QUALIFY place % {every} = 0 ORDER BY place"""
    rows = reader.rows(query, run=run_id)
    names = ("rollout_id", "step", "reward", "status", "environment", "category", "staleness", "place")
    return {"total": total} | {name: [row[name] for row in rows] for name in names}


def _sparks(reader: Reader) -> dict[str, list[float]]:
    query = """SELECT run_id, name, list(value ORDER BY step) AS curve FROM (
      SELECT run_id, name, step, arg_max(value, incarnation) AS value FROM metrics WHERE name IN ('train/reward', 'train/loss') GROUP BY run_id, name, step)
    GROUP BY run_id, name ORDER BY name"""
    found = {}
    for row in reader.rows(query):  # `train/reward` comes after `train/loss`, and counts
        curve, every = row["curve"], max(1, -(-len(row["curve"]) // _SPARK_POINTS))
        found[row["run_id"]] = curve[::every]
    return found


def _deep(config: Any, names: Sequence[str]) -> str | None:
    """The first text under one of the names, wherever in the configuration it stands."""
    if not isinstance(config, dict):
        return None
    for name in names:
        if isinstance(config.get(name), str):
            return config[name]
    found = (_deep(inner, names) for inner in config.values())
    return next((text for text in found if text), None)
