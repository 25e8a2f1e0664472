"""From references to training data: trajectories with messages and tokens, preference pairs, tasks. A few are in memory at a time."""

import functools
import json
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from ..base.errors import ConfigError, EvalLeak, FormatError
from ..store.lance_store import LanceStore
from ..store.messages import Message
from ..store.task import Prompt, Task
from .candidates import held_out_tasks
from .versions import DatasetVersion

_COLUMNS = ["rollout_id", "run_id", "task_id", "prompt_id", "reward", "messages", "token_ids", "loss_mask", "tokenizer_hash", "template_hash", "prefix_ok", "extra"]  # fmt: skip
_TOKEN_KEY = ["prompt_id", "tokenizer_hash", "template_hash"]
# Reading many short rows together is several times as fast; many long rows would fill memory.
_ROWS_AT_ONCE = (64, 1024)  # at least and at most
_BYTES_AT_ONCE = 8 << 20  # in Arrow; Python's numbers take ten times as much


@dataclass(frozen=True)
class Trajectory:
    """One rollout as training data.

    Attributes:
        prompt: System and user messages; for a step of a rollout also everything before the step.
        tools: JSON list of the tool schemas, in order, as stored.
        messages: Everything after the prompt.
        prompt_ids: Token ids of the prompt under the rollout's tokenizer and template; None when they are not stored.
        token_ids: Token ids of everything after the prompt; None when the policy reported no tokens.
        loss_mask: Parallel to token_ids: 1 where the policy sampled the token, else 0. None without tokens.
        tokenizer_hash: Identifies the tokenizer of the ids; None without tokens.
        template_hash: Identifies the chat template that rendered them; None without tokens.
        prefix_ok: Whether every prompt of the rollout began with all tokens before it; None without tokens.
        weight: Weight of its dataset row.
        run_id: The run that collected it.
        reward: Reward at collection time; None when there was none.
        untrained: Positions in prompt and messages together of replies that are not to be learned from, such as those of OpenAI's `weight: 0`.
    """

    rollout_id: str
    task_id: str
    prompt: tuple[Message, ...]
    tools: str
    messages: tuple[Message, ...]
    prompt_ids: list[int] | None
    token_ids: list[int] | None
    loss_mask: list[int] | None
    tokenizer_hash: str | None
    template_hash: str | None
    prefix_ok: bool | None
    weight: float = 1.0
    run_id: str | None = None
    reward: float | None = None
    untrained: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Pair:
    """An accepted trajectory and a worse one for the same prompt."""

    chosen: Trajectory
    rejected: Trajectory


class PromptSet(list[Task]):
    """The tasks of a prompt set in order, and how training draws them.

    Attributes:
        weights: Parallel to the tasks: the relative rate of drawing each, 1 on average; None draws all equally often.
        in_order: Whether the order is a curriculum that training must keep.
    """

    weights: list[float] | None = None
    in_order: bool = False


def sft_rows(store: LanceStore, dataset: DatasetVersion) -> list[Trajectory]:
    """All demonstrations in order. Raises as iter_sft."""
    return list(iter_sft(store, dataset))


def dpo_rows(store: LanceStore, dataset: DatasetVersion) -> list[Pair]:
    """All pairs in order. Raises as iter_dpo."""
    return list(iter_dpo(store, dataset))


def iter_sft(store: LanceStore, dataset: DatasetVersion) -> Iterator[Trajectory]:
    """The demonstrations in order, read a few at a time: memory does not grow with the set.

    Raises:
        ConfigError: The dataset is of another kind.
        EvalLeak: The dataset holds tasks of a held-out split.
        FormatError: The store lacks a row that the dataset refers to.
    """
    _expect(dataset, "sft")
    return iter_trajectories(store, dataset)


def iter_dpo(store: LanceStore, dataset: DatasetVersion) -> Iterator[Pair]:
    """The pairs in order, read a few at a time. Pairs of steps are cut to the part that differs (`step_scope` of DpoOptions). Raises as iter_sft."""
    _expect(dataset, "dpo")
    sides = iter_trajectories(store, dataset)
    scope = dataset.recipe.get("step_scope", "turn") if dataset.recipe.get("pairing") == "step" else None
    for chosen, rejected in zip(sides, sides, strict=True):
        pair = Pair(chosen, rejected)
        yield pair if scope is None else from_first_difference(pair, scope == "turn")


def grpo_tasks(store: LanceStore, dataset: DatasetVersion) -> PromptSet:
    """The tasks in order. Raises as iter_sft."""
    _expect(dataset, "grpo")
    ids = dataset.references["task_id"].to_list()
    _refuse_held_out(store, dataset)
    tasks = read_tasks(store, ids, dataset.snapshot)
    prompts = PromptSet(tasks[id] for id in ids)
    if dataset.references["weight"].n_unique() > 1:
        prompts.weights = dataset.references["weight"].to_list()
    prompts.in_order = dataset.recipe.get("order", "shuffled") != "shuffled"
    return prompts


def read_tasks(store: LanceStore, ids: list[str], at: str | None = None) -> dict[str, Task]:
    """Tasks by id, of the snapshot `at` or of the latest version. Raises FormatError when the store lacks one."""
    rows = _Lookup(store, "tasks", ["task_id"], at).get(ids)
    prompts = _Lookup(store, "prompts", ["prompt_id"], at).get([row["prompt_id"] for row in rows.values()])
    return {id: Task.from_row(row, Prompt.from_row(prompts[row["prompt_id"]])) for id, row in rows.items()}


def iter_trajectories(store: LanceStore, dataset: DatasetVersion) -> Iterator[Trajectory]:
    """The rollout of each reference, in order; chosen before rejected in a pair."""
    _refuse_held_out(store, dataset)
    at = dataset.snapshot
    rollouts = _Lookup(store, "rollouts", ["rollout_id"], at, _COLUMNS)
    prompts, tokens = _Lookup(store, "prompts", ["prompt_id"], at), _Lookup(store, "prompt_tokens", _TOKEN_KEY, at)
    references = dataset.references.sort("row", "role", maintain_order=True)
    start, (count, most) = 0, _ROWS_AT_ONCE
    while start < references.height:
        some = references.slice(start, count)
        rows = rollouts.get(some["rollout_id"].to_list())
        start += count
        count = min(max(_BYTES_AT_ONCE // rollouts.row_bytes, _ROWS_AT_ONCE[0]), most)
        prompt_rows = prompts.get([row["prompt_id"] for row in rows.values()])
        keys = [tuple(row[name] for name in _TOKEN_KEY) for row in rows.values() if row["token_ids"] is not None]
        rendered = tokens.get(keys, must_exist=False)
        for id, weight in zip(some["rollout_id"], some["weight"], strict=True):
            row = rows[id]
            key = tuple(row[name] for name in _TOKEN_KEY)
            yield _trajectory(row, prompt_rows[row["prompt_id"]], rendered.get(key), weight)


def from_first_difference(pair: Pair, one_turn: bool) -> Pair:
    """The pair cut to where its sides first differ; the messages that they share become part of the prompt.

    Args:
        one_turn: Each side is only the message that differs; else everything from it on.
    """
    sides = (pair.chosen, pair.rejected)
    shared = 0
    for left, right in zip(pair.chosen.messages, pair.rejected.messages, strict=False):
        if _unnamed(left) != _unnamed(right):
            break
        shared += 1
    # The step begins with the turn that differs; the tool results before it are equal.
    turns = sum(message.role == "assistant" for message in pair.chosen.messages[:shared])
    # Both sides get the same prompt, including the ids of its calls.
    prompt = pair.chosen.prompt + pair.chosen.messages[:shared]
    cut = [_cut(side, prompt, shared, turns, one_turn) for side in sides]
    if cut[0].prompt_ids != cut[1].prompt_ids:
        cut = [_without_tokens(side) for side in cut]
    return Pair(*cut)


def _cut(side: Trajectory, prompt: tuple[Message, ...], shared: int, turns: int, one_turn: bool) -> Trajectory:
    rest = side.messages[shared : shared + 1] if one_turn else side.messages[shared:]
    cut = replace(side, prompt=prompt, messages=rest)
    spans = _sampled_spans(side.loss_mask or [])
    if side.prompt_ids is None or side.token_ids is None or side.loss_mask is None or turns >= len(spans):
        return _without_tokens(cut)
    start = spans[turns][0]
    end = spans[turns][1] if one_turn else len(side.token_ids)
    return replace(
        cut,
        prompt_ids=side.prompt_ids + side.token_ids[:start],
        token_ids=side.token_ids[start:end],
        loss_mask=side.loss_mask[start:end],
    )


def _sampled_spans(mask: list[int]) -> list[tuple[int, int]]:
    """(start, end) of each sequence of ones: the turns of the policy."""
    edges = [at for at in range(len(mask) + 1) if (mask[at] if at < len(mask) else 0) != (mask[at - 1] if at else 0)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _without_tokens(side: Trajectory) -> Trajectory:
    return replace(side, prompt_ids=None, token_ids=None, loss_mask=None)


def _unnamed(message: Message) -> tuple:
    """The content of a message without the ids of its calls, which engines choose at random."""
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.role, message.text, message.reasoning, message.parts, calls


def _trajectory(
    row: dict[str, Any], prompt: dict[str, Any], tokens: dict[str, Any] | None, weight: float
) -> Trajectory:
    return Trajectory(
        rollout_id=row["rollout_id"],
        task_id=row["task_id"],
        prompt=_messages(prompt),
        tools=prompt["tools"] or "[]",
        messages=_messages(row),
        prompt_ids=tokens["token_ids"] if tokens else None,
        token_ids=row["token_ids"],
        loss_mask=row["loss_mask"],
        tokenizer_hash=row["tokenizer_hash"],
        template_hash=row["template_hash"],
        prefix_ok=row["prefix_ok"],
        weight=weight,
        run_id=row["run_id"],
        reward=row["reward"],
        untrained=_untrained(row["extra"]),
    )


def _untrained(extra: str | None) -> frozenset[int]:
    """Positions of the replies that their source marked as not to be learned from; stores of earlier versions have them in the overlay of chats."""
    if not extra or not ('"untrained"' in extra or '"weight"' in extra):
        return frozenset()
    told = json.loads(extra)
    if isinstance(told.get("untrained"), list):
        return frozenset(told["untrained"])
    chat = told.get("openai-chat")
    messages = chat.get("messages", {}) if isinstance(chat, dict) else {}
    kept = messages.get("$at", {}) if isinstance(messages, dict) else {}
    return frozenset(int(at) for at, fields in kept.items() if isinstance(fields, dict) and fields.get("weight") == 0)


def _expect(dataset: DatasetVersion, kind: str) -> None:
    if dataset.kind != kind:
        raise ConfigError(
            f"Dataset {dataset.label} is of kind {dataset.kind}, not {kind}.",
            f"Build one with `rollhouse dataset build {kind}`, or train with `rollhouse train {dataset.kind}`.",
        )


def _refuse_held_out(store: LanceStore, dataset: DatasetVersion) -> None:
    # The builder refuses them; this check covers versions written by other programs.
    held_out = held_out_tasks(store, dataset.snapshot)["task_id"]
    leaked = dataset.references.filter(pl.col("task_id").is_in(held_out.implode()))["task_id"].n_unique()
    if leaked:
        raise EvalLeak(
            f"Dataset {dataset.label} holds {leaked} tasks of validation or test.", "Build it again from train tasks."
        )


class _Lookup:
    """Rows of a table by key. One scan of the key columns finds their positions; `get` reads the rows themselves.

    Only a sorted 64-bit hash is kept for each key; the rows found are compared with the key itself.

    Attributes:
        row_bytes: Mean size in Arrow of the rows read last, in bytes.
    """

    row_bytes = 1

    def __init__(
        self, store: LanceStore, table: str, key: list[str], at: str | None, columns: list[str] | None = None
    ) -> None:
        self._what = f"Table {table} of {store.uri}"
        self._key, self._columns = key, columns
        self._data = store.lance_dataset(table, at)
        keys = pl.from_arrow(self._data.to_table(columns=key))
        assert isinstance(keys, pl.DataFrame)
        hashes = self._hashed(keys)
        self._places = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._places]

    def get(self, keys: list[Any], must_exist: bool = True) -> dict[Any, dict[str, Any]]:
        """Rows by key (a tuple when the key has several columns). Raises FormatError when a row is missing and `must_exist` is set."""
        single = len(self._key) == 1
        wanted = list(dict.fromkeys(keys))
        frame = pl.DataFrame(
            [(key,) if single else key for key in wanted], dict.fromkeys(self._key, pl.String), orient="row"
        )
        hashes = self._hashed(frame)
        bounds = zip(np.searchsorted(self._hashes, hashes), np.searchsorted(self._hashes, hashes, "right"), strict=True)
        places = sorted({int(place) for low, high in bounds for place in self._places[low:high]})
        found: dict[Any, dict[str, Any]] = {}
        rows = self._data.take(places, columns=self._columns) if places else None
        if rows is not None:
            self.row_bytes = max(rows.nbytes // len(places), 1)
        for row in rows.to_pylist() if rows is not None else ():
            found.setdefault(row[self._key[0]] if single else tuple(row[name] for name in self._key), row)
        missing = [key for key in wanted if key not in found]
        if missing and must_exist:
            raise FormatError(
                f"{self._what} lacks {len(missing)} rows that the dataset refers to, the first with {self._key[0]} {missing[0]}.",
                "Run `rollhouse check` for a full list, and import the source again.",
            )
        return found

    def _hashed(self, keys: pl.DataFrame) -> np.ndarray:
        hashes = [keys[name].hash(seed) for seed, name in enumerate(self._key)]
        return functools.reduce(operator.xor, [each.to_numpy() for each in hashes])


def _messages(row: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(Message.from_row(message) for message in row["messages"] or ())
