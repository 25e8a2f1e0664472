"""Runs the commands of the demo in one process, so that they share one engine, and summarizes the store."""

import json
import shlex
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from time import perf_counter
from typing import Any

import typer

from ..base.errors import ConfigError
from .common import console
from .demo_plan import BASE, LAST, POLICIES, Step, eval_run

LINEAGE = {"checkpoint", "run", "dataset", "snapshot", "rollouts", "policy"}
"""Kinds of nodes that the lineage of a checkpoint must contain."""


def run_steps(store: Path, steps: Sequence[Step]) -> dict[str, float]:
    """Runs every command and returns the seconds of each stage.

    The engine is started once and shared by the commands. Missing packages are reported before the first command.

    Raises:
        ConfigError: The folder already holds a store.
        MissingExtra: A package that a command needs is not installed.
        typer.Exit: A command failed; the exit code is the command's.
    """
    from ..base.packages import need, require
    from ..policies.engines.cluster import ensure_ray, shutdown_ray

    if (store / "summary.json").exists() or (store / "rollouts.lance").exists():
        raise ConfigError(f"{store} already holds a store.", "Name an empty folder with --store, or remove this one.")
    need("ray")
    need("trl")
    require("vllm")
    seconds: dict[str, float] = {}
    started = False
    try:
        for number, step in enumerate(steps, 1):
            start = perf_counter()
            console().print(f"\n[bold]{number}. {step.stage}[/bold]  {step.text}")
            if step.stage == "collect":
                started = ensure_ray()
                start_engine()
            for command in step.commands:
                run_command(command)
            seconds[step.stage] = round(perf_counter() - start, 2)
    finally:
        if started:
            shutdown_ray()
    return seconds


def free_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, … that does not exist."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(path for path in chain([folder], numbered) if not path.exists())


def start_engine() -> None:
    """Starts the engine that all further commands share."""
    from ..policies.engines.vllm_actor import open_vllm
    from ..train.checkpoints import resolve_model

    with console(stderr=True).status("starting vLLM in a Ray actor"):
        open_vllm(resolve_model(None, BASE))


def run_command(arguments: list[str]) -> None:
    """Prints a command as it is typed and runs it."""
    from .main import app

    console().print(f"\n$ rollhouse {shlex.join(arguments)}", style="cyan", markup=False, soft_wrap=True)
    code = app(arguments, standalone_mode=False)
    if code:
        raise typer.Exit(code)


def summarize(store: Path, seed: int, seconds: dict[str, float]) -> dict[str, Any]:
    """The content of summary.json, read from the store."""
    from ..queries.session import sql
    from ..store.lance_store import LanceStore
    from ..store.lineage import lineage

    place = LanceStore.open(store)

    def rows_of(query: str) -> list[dict[str, Any]]:
        return sql(place, query).to_pylist()

    rates = {
        row["run_id"]: row["rate"]
        for row in rows_of("select run_id, avg(passed::int) as rate from evaluations group by 1")
    }
    counts = rows_of("select count(*) as rollouts, sum(n_tokens)::bigint as tokens from rollouts")[0]
    bfcl = rows_of(
        "select category, avg(passed::int) as accuracy from evaluations where benchmark = 'bfcl' group by 1 order by 1"
    )
    checkpoints = rows_of("select checkpoint_id from checkpoints order by created_at")
    return {
        "seed": seed,
        "seconds": seconds,
        "rollouts": counts["rollouts"],
        "tokens": counts["tokens"],
        "pass_rate": {policy: rates[eval_run(policy, "sampled")] for policy in POLICIES},
        "pass_rate_greedy": {policy: rates[eval_run(policy, "greedy")] for policy in POLICIES},
        "bfcl": {row["category"]: row["accuracy"] for row in bfcl},
        "snapshots": [row["name"] for row in rows_of("select name from snapshots order by created_at")],
        "datasets": {row["name"]: row["n_rows"] for row in rows_of("select name, n_rows from datasets order by created_at")},
        "checkpoints": [row["checkpoint_id"] for row in checkpoints],
        "lineage_ok": kinds(lineage(place, LAST)) >= LINEAGE,
    }  # fmt: skip


def kinds(node: Any) -> set[str]:
    """The kinds of nodes in a lineage tree."""
    return {node.kind}.union(*(kinds(child) for child in node.children))


def write_summary(store: Path, summary: dict[str, Any]) -> Path:
    """Writes summary.json and returns its path."""
    path = store / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    return path


def summary_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per policy."""
    return [
        {"policy": policy, "temperature 1": summary["pass_rate"][policy], "greedy": summary["pass_rate_greedy"][policy]}
        for policy in POLICIES
    ]
