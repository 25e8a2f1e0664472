"""The same three selections as most scripts write them: HF datasets row by row, and pandas group by group."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from rollhouse.store.lance_store import LanceStore

COLUMNS = ["rollout_id", "task_id", "prompt_id", "status", "reward", "n_parse_failures", "n_tool_errors", "n_turns", "n_sampled_tokens", "messages"]  # fmt: skip
LIGHT = ["task_id", "prompt_id", "status", "reward"]


def response(messages: list[dict[str, Any]]) -> str:
    """A response as a hashable text."""
    spoken = [
        (m["text"], [(c["name"], c["arguments"]) for c in (() if m["tool_calls"] is None else m["tool_calls"])])
        for m in messages
        if m["role"] == "assistant"
    ]
    return json.dumps(spoken)


def sft(table: pa.Table, folder: str) -> int:
    """datasets.filter and .map row by row, then a dict of seen responses and a count per task."""
    from datasets import Dataset

    data = Dataset(table, fingerprint="bench-sft")
    kept = data.filter(
        lambda row: (
            row["status"] == "completed" and row["reward"] == 1 and row["n_parse_failures"] == 0
            and row["n_tool_errors"] <= 1 and row["n_turns"] <= 40
        ),
        cache_file_name=f"{folder}/kept.arrow",
    )  # fmt: skip
    kept = kept.map(
        lambda row: {"response": response(row["messages"])},
        remove_columns=["messages"],
        cache_file_name=f"{folder}/response.arrow",
    )
    seen: set[tuple[str, str]] = set()
    per_task: dict[str, int] = {}
    chosen = []
    listed: list[Any] = list(kept)
    for row in sorted(listed, key=lambda row: (row["n_turns"], row["n_sampled_tokens"], row["rollout_id"])):
        key = (row["prompt_id"], row["response"])
        if key not in seen and per_task.get(row["task_id"], 0) < 4:
            seen.add(key)
            per_task[row["task_id"]] = per_task.get(row["task_id"], 0) + 1
            chosen.append(row["rollout_id"])
    return len(chosen)


def dpo(table: pa.Table, folder: str) -> int:
    """pandas, a function for each group."""
    frame = table.to_pandas()
    frame = frame[frame["status"] == "completed"]
    frame["response"] = frame.pop("messages").map(response)

    def pairs(group: Any) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        used: set[str] = set()
        good = group[group["reward"] == 1].sort_values(["n_turns", "rollout_id"])
        for _, chosen in good.iterrows():
            bad = group[
                (group["reward"] <= chosen["reward"] - 1) & ~group["response"].isin(used | {chosen["response"]})
            ]
            if bad.empty or len(found) == 2:
                break
            apart = (bad["n_sampled_tokens"] - chosen["n_sampled_tokens"]).abs()
            rejected = bad.loc[apart.idxmin()]
            used.add(rejected["response"])
            found.append((chosen["rollout_id"], rejected["rollout_id"]))
        return found

    return sum(len(pairs(group)) for _, group in frame.groupby(["task_id", "prompt_id"]))


def grpo(table: pa.Table, folder: str) -> int:
    """pandas, a function for each task; the prompts of the mixed ones, shuffled, in a file."""
    return _prompts(table, folder, lambda rewards: rewards.apply(pass_rate))


def grpo_columns(table: pa.Table, folder: str) -> int:
    """The same with pandas' vectorized functions."""
    return _prompts(table, folder, lambda rewards: rewards.mean())


def pass_rate(rewards: Any) -> float:
    """The share of a task's rollouts at reward 1."""
    return (rewards == 1).mean()


def _prompts(table: pa.Table, folder: str, rates_of: Callable[[Any], Any]) -> int:
    frame = table.to_pandas()
    frame = frame[frame["status"].isin(["completed", "truncated"]) & frame["reward"].notna()]
    rates = rates_of(frame.groupby("task_id")["reward"])
    mixed = rates[(rates > 0) & (rates < 1)].sample(frac=1, random_state=0)
    prompts = frame.drop_duplicates("task_id").set_index("task_id").loc[mixed.index, ["prompt_id"]]
    prompts.assign(pass_rate=mixed).to_json(f"{folder}/prompts.jsonl", orient="records", lines=True)
    return len(prompts)


def some(store: LanceStore, kind: str, share: int) -> pa.Table:
    """The columns a selection needs, of the first one in `share` rollouts: whole groups."""
    dataset = store.lance_dataset("rollouts", "all")
    return dataset.to_table(
        columns=COLUMNS if kind in ("sft", "dpo") else LIGHT, limit=dataset.count_rows() // share // 8 * 8
    )
