"""Rollouts of a store, one at a time, with all they refer to: what an export writes."""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Any

import pyarrow as pa

from ..queries.conditions import filtered_rollouts
from ..queries.session import sql
from ..queries.verdicts import is_chosen
from ..store.lance_store import LanceStore, quote
from ..store.messages import Message
from ..store.rollout import VERDICT
from .rollout import FileRollout, Row, value_of

_ROWS_AT_ONCE = 64
_PROMPTS_KEPT = 256
_JSON_TASK, _PLAIN_TASK = ("ground_truth", "state", "extra"), ("split", "category", "difficulty", "source_key")


class StoredRollouts:
    """The rollouts that a condition selects, in the order they lie in the store, those of one episode together.

    Memory holds their positions, the keys of prompts and tasks, and another scorer's verdicts; rows are read a few at a time.

    Attributes:
        count: How many there are.
    """

    def __init__(
        self,
        store: LanceStore,
        run: str | None = None,
        where: str | None = None,
        at: str | None = None,
        scorer: str | None = None,
    ) -> None:
        wanted: dict[str, int] | None = None
        self._verdicts: pa.Table | None = None
        if where is not None or is_chosen(scorer):
            selected = _selected(store, run, where, at, scorer)
            wanted = {id: number for number, id in enumerate(selected["rollout_id"].to_pylist())}
            self._verdicts = selected.select(VERDICT) if is_chosen(scorer) else None
        self._verdict_of = wanted or {}
        self._rollouts = store.lance_dataset("rollouts", at)
        self._episodes = self._positions(run, wanted)
        self.count = sum(len(positions) for positions in self._episodes)
        self._prompts = _Referred(store, "prompts", ("prompt_id",), at)
        self._tasks = _Referred(store, "tasks", ("task_id",), at)
        self._tokens = _Referred(store, "prompt_tokens", ("prompt_id", "tokenizer_hash", "template_hash"), at)

    def __iter__(self) -> Iterator[list[FileRollout]]:
        """The rollouts of one episode after another's."""
        order = [(number, position) for number, positions in enumerate(self._episodes) for position in positions]
        rows = self._rows([position for _, position in order])
        for _, episode in groupby(zip(order, rows, strict=True), key=lambda pair: pair[0][0]):
            yield [self._rollout(row) for _, row in episode]

    def _positions(self, run: str | None, wanted: Collection[str] | None) -> list[list[int]]:
        episodes: dict[str, list[int]] = {}
        position = 0
        columns = ["rollout_id", "run_id", "episode_id"]
        for batch in self._rollouts.to_batches(columns=columns):
            for id, run_id, episode in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                if (run is None or run_id == run) and (wanted is None or id in wanted):
                    episodes.setdefault(episode or id, []).append(position)
                position += 1
        return list(episodes.values())

    def _rows(self, positions: list[int]) -> Iterator[Row]:
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            yield from self._rollouts.take(positions[start : start + _ROWS_AT_ONCE]).to_pylist()

    def _rollout(self, row: Row) -> FileRollout:
        prompt = self._prompts.get(row["prompt_id"]) or {}
        tokens = self._tokens.get(row["prompt_id"], row["tokenizer_hash"], row["template_hash"]) or {}
        messages, gaps, extra = (row.pop(name) for name in ("messages", "gaps", "extra"))
        collected = None
        if self._verdicts is not None:
            collected = {name: row[name] for name in VERDICT}
            row |= self._verdicts.slice(self._verdict_of[row["rollout_id"]], 1).to_pylist()[0]
        return FileRollout(
            prompt=[Message.from_row(message) for message in prompt.get("messages") or ()],
            tools=value_of(prompt.get("tools")) or [],
            messages=[Message.from_row(message) for message in messages or ()],
            columns=row,
            prompt_ids=tokens.get("token_ids"),
            task=_task(self._tasks.get(row["task_id"])),
            extra=value_of(extra) or {},
            gaps=set(gaps or ()),
            collected=collected,
        )


class _Referred:
    """Rows of a table by a key of some columns; the last few are kept."""

    def __init__(self, store: LanceStore, table: str, key: tuple[str, ...], at: str | None) -> None:
        self._data = store.lance_dataset(table, at)
        self._recent: OrderedDict[tuple[Any, ...], Row] = OrderedDict()
        self._positions: dict[tuple[Any, ...], int] = {}
        for batch in self._data.to_batches(columns=list(key)):
            for values in zip(*(batch[name].to_pylist() for name in key), strict=True):
                self._positions[values] = len(self._positions)

    def get(self, *key: Any) -> Row | None:
        """The row, None when there is none."""
        if key in self._recent:
            self._recent.move_to_end(key)
        elif key in self._positions:
            [self._recent[key]] = self._data.take([self._positions[key]]).to_pylist()
            if len(self._recent) > _PROMPTS_KEPT:
                self._recent.popitem(last=False)
        return self._recent.get(key)


def _task(row: Row | None) -> Row | None:
    if row is None:
        return None
    return {name: value_of(row[name]) for name in _JSON_TASK} | {name: row[name] for name in _PLAIN_TASK}


def _selected(store: LanceStore, run: str | None, where: str | None, at: str | None, scorer: str | None) -> pa.Table:
    """The ids that the condition selects, and beside them the verdicts of a scorer that was chosen."""
    columns = ", ".join(("rollout_id", *(VERDICT if is_chosen(scorer) else ())))
    narrowed = "" if run is None else f"WHERE run_id = {quote(run)}"
    return sql(store, f"SELECT {columns} FROM {filtered_rollouts(where)} {narrowed}", at, scorer=scorer)
