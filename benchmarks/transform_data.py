"""A store for benchmarks/transform.py: rollouts in groups of eight, with messages, made as Arrow columns."""

import json
from hashlib import sha256

import numpy as np
import pyarrow as pa
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.schema import arrow_type
from rollhouse.store.snapshots import create_snapshot

GROUP = 8
_MESSAGES = arrow_type(list[Message])
_ROWS_AT_ONCE = 40_000
_ANSWER = "I will look that up in the calendar first, and then write the mail you asked for with every detail you gave."
_ANSWER = json.dumps(
    {"result": [{"id": "00000123", "name": "carlos", "body": "Thanks, I will get back to you tomorrow."}]}
)
_TOOLS = json.dumps(
    [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"to": {"type": "string"}, "task": {"type": "integer"}}}}}
        for name in ("search_mail", "send_mail")
    ]
)  # fmt: skip
_CATEGORIES = np.array(["mail", "calendar", "crm", "analytics"])


def make(folder: str, n: int, seed: int = 0) -> LanceStore:
    """A store with `n` rollouts, graded 0 or 1, and a snapshot `all`. About a tenth of the responses of a prompt are equal."""
    store, chance = LanceStore.create(folder), np.random.default_rng(seed)
    n_tasks = n // GROUP
    tasks, prompts = _ids("task", 0, n_tasks), _ids("prompt", 0, n_tasks)
    solved = chance.beta(0.7, 0.7, n_tasks)
    for start in range(0, n, _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, n))
        append_rows(store, "rollouts", _rollouts(rows, tasks, prompts, solved, chance))
    append_rows(
        store,
        "prompts",
        pa.table({"prompt_id": prompts, "messages": _prompts(n_tasks, chance), "tools": [_TOOLS] * n_tasks}),
    )
    append_rows(
        store,
        "tasks",
        pa.table(
            {
                "task_id": tasks,
                "environment": ["bench"] * n_tasks,
                "prompt_id": prompts,
                "ground_truth": ["[]"] * n_tasks,
                "split": ["train"] * n_tasks,
                "category": chance.choice(_CATEGORIES, n_tasks),
            }
        ),
    )
    create_snapshot(store, "all")
    return store


def _rollouts(
    rows: np.ndarray, tasks: np.ndarray, prompts: np.ndarray, solved: np.ndarray, chance: np.random.Generator
) -> pa.Table:
    n, task = len(rows), rows // GROUP
    reward = (chance.random(n) < solved[task]).astype(np.float32)
    ids = _ids("rollout", int(rows[0]), n)
    columns = {
        "rollout_id": ids, "slot_id": ids, "run_id": ["bench"] * n, "task_id": tasks[task], "prompt_id": prompts[task],
        "group_id": tasks[task], "sample_index": (rows % GROUP).astype(np.int32), "attempt": np.zeros(n, np.int32),
        "branch": np.zeros(n, np.int32), "trainable": np.ones(n, bool), "environment": ["bench"] * n, "policy_id": ["p"] * n,
        "policy_version": np.zeros(n, np.int32), "status": np.where(chance.random(n) < 0.97, "completed", "truncated"),
        "reward": reward, "passed": reward == 1, "n_turns": np.full(n, 3, np.int32), "n_tool_calls": np.full(n, 2, np.int32),
        "n_tool_errors": (chance.random(n) < 0.1).astype(np.int32), "n_parse_failures": np.zeros(n, np.int32),
        "n_tokens": chance.integers(300, 2000, n).astype(np.int32),
        "n_sampled_tokens": chance.integers(100, 900, n).astype(np.int32),
    }  # fmt: skip
    variants = chance.integers(0, 40, n)
    messages = [_response(int(variant), int(at)) for variant, at in zip(variants, task, strict=True)]
    return pa.table(
        {name: pa.array(values) for name, values in columns.items()} | {"messages": pa.array(messages, _MESSAGES)}
    )


def _response(variant: int, task: int) -> list[dict]:
    messages = []
    for number, name in enumerate(("search_mail", "send_mail")):
        call = {"id": f"call_{number}", "name": name, "arguments": json.dumps({"to": f"user{variant}", "task": task})}
        messages.append({"role": "assistant", "text": _ANSWER, "tool_calls": [call]})
        messages.append({"role": "tool", "text": _ANSWER, "tool_call_id": call["id"], "tool_calls": []})
    return [*messages, {"role": "assistant", "text": f"Done, variant {variant}.", "tool_calls": []}]


def _prompts(n: int, chance: np.random.Generator) -> pa.Array:
    words = [f"word{number}" for number in range(4000)]
    drawn = chance.integers(0, len(words), (n, 60))
    texts = [" ".join(words[at] for at in row) for row in drawn]
    return pa.array(
        [[{"role": "system", "text": "Use tools."}, {"role": "user", "text": text}] for text in texts], _MESSAGES
    )


def _ids(kind: str, start: int, n: int) -> np.ndarray:
    return np.array([sha256(f"{kind}{number}".encode()).hexdigest()[:32] for number in range(start, start + n)])
