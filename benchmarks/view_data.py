"""A store of many rollouts for benchmarks/view.py: the columns that the viewer filters and sorts, short messages, tokens for some."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.tables import TABLES

ROWS_OF_AN_APPEND = 50_000
GROUP = 8
RUNS = 20
TASKS = 2_000
LONG_TOKENS = 25_000
LONG_ID = "f" * 32
_START = datetime(2026, 1, 2, tzinfo=UTC)


def make_store(path: str, n_rollouts: int) -> LanceStore:
    """Creates a store with `n_rollouts` rollouts of 20 runs, one plan a step, a verdict for a tenth of them, and one rollout of 25,000 tokens."""
    store = LanceStore.create(path)
    generator = np.random.default_rng(0)
    per_run = n_rollouts // RUNS
    append_rows(
        store,
        "prompts",
        [
            {"prompt_id": f"{task:032x}", "messages": _talk("user", f"Please do task {task}."), "tools": "[]"}
            for task in range(TASKS)
        ],
    )
    append_rows(store, "tasks", [_task(task) for task in range(TASKS)])
    for run in range(RUNS):
        append_rows(store, "run_events", _events(run))
        for start in range(0, per_run, ROWS_OF_AN_APPEND):
            rows = _rollouts(generator, run, start, min(ROWS_OF_AN_APPEND, per_run - start), per_run)
            append_rows(store, "rollouts", rows)
            append_rows(store, "scores", _scores(rows.slice(0, rows.num_rows // 10)))
            if run < 4:
                append_rows(store, "batch_plans", _plans(run, rows))
    append_rows(store, "rollouts", [_long(generator)])
    return store


def _talk(role: str, text: str) -> list[dict[str, Any]]:
    return [{"role": role, "text": text, "parts": None, "reasoning": None, "tool_calls": [], "tool_call_id": None}]


def _task(task: int) -> dict[str, Any]:
    return {
        "task_id": f"{task:032x}", "environment": f"env-{task % 4}", "prompt_id": f"{task:032x}", "ground_truth": "[]", "split": "train",
        "category": f"kind-{task % 12}", "created_at": _START,
    }  # fmt: skip


def _events(run: int) -> list[dict[str, Any]]:
    name, at = f"run-{run:02d}", _START + timedelta(hours=run)
    common = {"run_id": name, "incarnation": 0, "created_at": at}
    started = {
        "row_id": f"{name}-0",
        "sequence": 0,
        "event": "started",
        "kind": "grpo",
        "name": name,
        "payload": '{"model": "some-model", "seed": 0}',
    }
    finished = {"row_id": f"{name}-1", "sequence": 1, "event": "finished", "payload": "{}"}
    return [common | started, common | finished]


def _rollouts(generator: np.random.Generator, run: int, start: int, n: int, per_run: int) -> pa.Table:
    index = np.arange(start, start + n)
    ids = [f"{run:04x}{place:028x}" for place in index]
    group = index // GROUP
    task = (group * 7) % TASKS
    step = 1 + index * 50 // per_run
    reward = generator.choice([0.0, 0.5, 1.0], n).astype(np.float32)
    status = generator.choice(["completed", "truncated", "error"], n, p=[0.93, 0.05, 0.02])
    messages = pa.array(
        [_talk("assistant", f"Done with {place}.") for place in index], TABLES["rollouts"].schema.field("messages").type
    )
    known: dict[str, Any] = {
        "rollout_id": ids, "slot_id": ids, "episode_id": ids, "run_id": [f"run-{run:02d}"] * n, "step": step, "task_id": [f"{one:032x}" for one in task],
        "prompt_id": [f"{one:032x}" for one in task], "group_id": [f"{run:04x}{one:028x}" for one in group], "sample_index": index % GROUP,
        "attempt": np.zeros(n, np.int32), "agent": ["main"] * n, "branch": np.zeros(n, np.int32), "trainable": [True] * n,
        "environment": [f"env-{one % 4}" for one in task], "policy_id": [f"run-{run:02d}"] * n, "policy_version": step - 1, "policy_version_last": step - 1,
        "engine": ["vllm"] * n, "messages": messages, "n_tokens": generator.integers(50, 4000, n), "n_sampled_tokens": generator.integers(20, 2000, n),
        "n_turns": generator.integers(1, 12, n), "n_tool_calls": generator.integers(0, 11, n), "n_tool_errors": generator.binomial(2, 0.05, n),
        "reward": reward, "passed": reward == 1.0, "scorer": ["final-state"] * n, "scorer_version": ["1"] * n, "status": status,
        "error_type": [None if one != "error" else "tool" for one in status], "gaps": [[]] * n, "reward_components": [[]] * n,
        "started_at": [_START + timedelta(hours=run, seconds=int(place) // 20) for place in index], "duration_s": generator.random(n) * 40,
    }  # fmt: skip
    schema = TABLES["rollouts"].schema
    return pa.table(
        {
            field.name: pa.array(known[field.name], field.type) if field.name in known else pa.nulls(n, field.type)
            for field in schema
        }
    )


def _scores(rows: pa.Table) -> list[dict[str, Any]]:
    wanted = rows.select(["rollout_id", "reward", "passed"]).to_pylist()
    return [
        {"row_id": f"s{row['rollout_id']}", "scorer": "lenient", "scorer_version": "1", "config_hash": "0", "components": [], "run_id": "run-00",
         "created_at": _START, **row, "passed": row["passed"] or place % 9 == 0}
        for place, row in enumerate(wanted)
    ]  # fmt: skip


def _plans(run: int, rows: pa.Table) -> list[dict[str, Any]]:
    wanted = rows.select(["rollout_id", "group_id", "reward", "step"]).to_pylist()
    plans: dict[int, list[dict[str, Any]]] = {}
    for place, row in enumerate(wanted):
        step, kept = row.pop("step"), place // GROUP % 5 > 0
        entry = row | {
            "advantage": row["reward"] - 0.5 if kept else None,
            "kept": kept,
            "reason": None if kept else "zero variance",
            "micro_batch": 0 if kept else None,
        }
        plans.setdefault(step, []).append(entry)
    name, common = f"run-{run:02d}", {"seed": 0, "settings": "{}", "created_at": _START}
    first = rows["rollout_id"][0].as_py()
    return [
        common | {"row_id": f"{name}-{step}-{first}", "run_id": name, "step": step, "policy_version": step - 1, "entries": entries}
        for step, entries in plans.items()
    ]  # fmt: skip


def _long(generator: np.random.Generator) -> dict[str, Any]:
    mask = np.repeat(np.arange(50) % 2 == 0, LONG_TOKENS // 50)
    sampled = int(mask.sum())
    turns = [
        message
        for turn in range(25)
        for message in (_talk("assistant", f"Turn {turn}.")[0], _talk("tool", "An answer.")[0] | {"tool_call_id": "c"})
    ]
    return {
        "rollout_id": LONG_ID, "slot_id": LONG_ID, "episode_id": LONG_ID, "run_id": "run-00", "step": 50, "task_id": f"{0:032x}", "prompt_id": f"{0:032x}",
        "group_id": LONG_ID, "sample_index": 0, "attempt": 0, "agent": "main", "branch": 0, "trainable": True, "environment": "env-0", "policy_id": "run-00",
        "policy_version": 48, "policy_version_last": 49, "version_spans": [{"start": 0, "version": 48}, {"start": 12_000, "version": 49}],
        "messages": turns, "token_ids": generator.integers(0, 150_000, LONG_TOKENS), "loss_mask": mask.astype(np.int8),
        "logprobs": -generator.exponential(0.3, sampled).astype(np.float32), "n_prompt_tokens": 100, "n_tokens": LONG_TOKENS, "n_sampled_tokens": sampled,
        "n_turns": 25, "n_tool_calls": 25, "n_tool_errors": 0, "reward": 1.0, "reward_components": [], "passed": True, "status": "completed",
        "gaps": [], "started_at": _START + timedelta(days=2), "duration_s": 90.0, "prefix_ok": True,
    }  # fmt: skip
