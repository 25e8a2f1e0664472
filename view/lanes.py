"""One step of a run over time: when each rollout was sampled, in what phases, and what the trainer did with the step."""

from typing import Any

from ..base.errors import ConfigError
from .reader import Reader

LANES = 512
_PHASES = ("verify", "train", "sync", "store")


def lanes(reader: Reader, run_id: str, step: str) -> dict[str, Any]:
    """The rollouts of a step by their start, at most LANES.

    Args:
        step: An optimizer step; empty is the newest with rollouts.

    Returns:
        step (None without one), steps (first and last with rollouts), total (rollouts of the step), rows (rollout_id, start and duration in seconds
        from the step's first start, generate, tool and verify in seconds, policy_version, status, reward), phases (seconds of the trainer, by name).

    Raises ConfigError when `step` is not a number.
    """
    if step and not step.lstrip("-").isdigit():
        raise ConfigError(f"{step[:40]!r} is not a step.", "Write a number.")
    known = (
        reader.row("SELECT min(step) AS first, max(step) AS last FROM rollouts WHERE run_id = $run", run=run_id) or {}
    )
    shown = int(step) if step else known.get("last")
    found: dict[str, Any] = {"step": shown, "steps": [known.get("first"), known.get("last")], "total": 0, "rows": [], "phases": {}}  # fmt: skip
    if shown is None:
        return found
    query = """SELECT rollout_id, epoch(started_at - min(started_at) OVER ()) AS start, duration_s AS duration, generate_s AS generate, tool_s AS tool,
      verify_s AS verify, policy_version, status, reward, count(*) OVER () AS total
    FROM rollouts WHERE run_id = $run AND step = $step AND started_at IS NOT NULL ORDER BY start, rollout_id LIMIT $most"""
    rows = reader.rows(query, run=run_id, step=shown, most=LANES)
    found["total"] = rows[0]["total"] if rows else 0
    found["rows"] = [{name: value for name, value in row.items() if name != "total"} for row in rows]
    names = [f"time/{name}" for name in _PHASES]
    metrics = """SELECT name, arg_max(value, incarnation) AS seconds FROM metrics
    WHERE run_id = $run AND step = $step AND list_contains($names::VARCHAR[], name) GROUP BY name"""
    of_step = {row["name"].removeprefix("time/"): row["seconds"] for row in reader.rows(metrics, run=run_id, step=shown, names=names)}  # fmt: skip
    found["phases"] = {name: of_step[name] for name in _PHASES if name in of_step}
    return found
