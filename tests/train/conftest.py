"""A small store of the mini office's train tasks, each solved and failed, with sampled tokens or without; and a fresh tiny model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.chat import ChatFormat
from rollhouse.store.appending import append_rows
from rollhouse.store.ids import group_id, hash_id, rollout_id, slot_id
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.task import Task
from rollhouse.train.tiny.logs import script_rollout
from rollhouse.train.tiny.model import build_model
from rollhouse.train.tiny.tokenizer import build_tokenizer

N_TASKS = 6


@dataclass(frozen=True)
class Office:
    """A store with a snapshot `s1`, and what is in it.

    Run `scripted` has messages alone; run `sampled` has the tokens of `chat` too. Each holds a solved and a failed
    rollout of every task.
    """

    store: LanceStore
    tasks: list[Task]
    chat: ChatFormat


@pytest.fixture(scope="session")
def fresh_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the tiny policy's shape that has learned nothing."""
    folder = tmp_path_factory.mktemp("fresh")
    tokenizer = build_tokenizer()
    build_model(len(tokenizer), seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def office(tmp_path: Path, fresh_model: Path) -> Office:
    store, chat = LanceStore.create(tmp_path / "store"), ChatFormat.of(fresh_model)
    tasks = list(MiniEnvironment(seed=0, n_train=N_TASKS).tasks("train"))
    rollouts, prompt_tokens = [], []
    for task in tasks:
        for solved in (True, False):
            messages = script_rollout(task, omit_last=not solved)
            rollouts.append(rollout(task, "scripted", messages, solved))
            rollouts.append(rollout(task, "sampled", messages, solved) | sampled_columns(task, messages, chat))
        prompt_tokens.append(
            {
                "row_id": hash_id(task.prompt_id),
                "prompt_id": task.prompt_id,
                "tokenizer_hash": chat.tokenizer_hash,
                "template_hash": chat.template_hash,
                "token_ids": chat.prompt_ids(task),
            }
        )
    append_rows(store, "prompts", [prompt_row(task) for task in tasks])
    append_rows(store, "prompt_tokens", prompt_tokens)
    append_rows(store, "tasks", [task_row(task) for task in tasks])
    append_rows(store, "rollouts", rollouts)
    create_snapshot(store, "s1")
    return Office(store, tasks, chat)


def rollout(task: Task, run: str, messages: Sequence[Message], solved: bool) -> dict[str, Any]:
    index = int(not solved)
    return {
        "rollout_id": rollout_id(run, None, task.task_id, index),
        "slot_id": slot_id(run, None, task.task_id, index),
        "run_id": run,
        "task_id": task.task_id,
        "prompt_id": task.prompt_id,
        "group_id": group_id(run, None, task.task_id),
        "sample_index": index,
        "attempt": 0,
        "branch": 0,
        "environment": task.environment,
        "policy_id": run,
        "messages": [message.to_row() for message in messages],
        "reward": float(solved),
        "passed": solved,
        "status": "completed",
    }


def sampled_columns(task: Task, messages: Sequence[Message], chat: ChatFormat) -> dict[str, Any]:
    """Tokens as a policy would have sampled them: the digits and words of each turn, byte by byte where it starts."""
    token_ids, mask = [], []
    for at, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if at:
            suffix = chat.suffix_ids(task, messages[:at], token_ids[-1])
            token_ids, mask = token_ids + suffix, mask + [0] * len(suffix)
        turn = unusual_ids(message, chat)
        token_ids, mask = token_ids + turn, mask + [1] * len(turn)
    return {
        "token_ids": token_ids,
        "loss_mask": mask,
        "tokenizer_hash": chat.tokenizer_hash,
        "template_hash": chat.template_hash,
        "prefix_ok": True,
        "n_tokens": len(token_ids),
        "n_sampled_tokens": sum(mask),
    }


def unusual_ids(message: Message, chat: ChatFormat) -> list[int]:
    """The turn in tokens that no tokenizer would choose for its text, but a policy may sample: `Done` letter by letter."""
    whole = chat.render([Message("user", "x"), message], (), generation_prompt=False)
    start = chat.render([Message("user", "x")], (), generation_prompt=True)
    turn = whole[len(start) :]
    turn = turn[: turn.index(chat.stop_token_ids[0]) + 1]
    if message.tool_calls:
        return turn
    letters = [chat.tokenizer.get_vocab()[letter] for letter in "Done"]
    assert chat.tokenizer.decode(turn) == "Done.<|im_end|>"
    return [*letters, *turn[1:]]


def prompt_row(task: Task) -> dict[str, Any]:
    messages = [message.to_row() for message in task.messages]
    return {"prompt_id": task.prompt_id, "messages": messages, "tools": json.dumps(task.tools)}


def task_row(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "environment": task.environment,
        "prompt_id": task.prompt_id,
        "ground_truth": json.dumps(task.ground_truth),
        "state": json.dumps(task.state),
        "state_hash": task.state_hash,
        "split": task.split,
        "category": task.category,
    }
