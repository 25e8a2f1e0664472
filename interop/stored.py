"""Rollouts of a house, one at a time, with all they refer to: what an export writes."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ..queries.session import sql
from ..store.house import House, quote
from ..store.messages import Message
from .rollout import Rollout, Row, value_of

_ROWS_AT_ONCE = 64
_PROMPTS_KEPT = 256
_JSON_TASK, _PLAIN_TASK = ("ground_truth", "state", "extra"), ("split", "category", "difficulty", "source_key")


class StoredRollouts:
    """The rollouts that a condition selects, in the order they lie in the house, those of one episode together.

    Memory holds their positions, and the keys of prompts and tasks; rows are read a few at a time.

    Attributes:
        count: How many there are.
    """

    def __init__(self, house: House, run: str | None = None, where: str | None = None, at: str | None = None) -> None:
        wanted = None if where is None else set(_ids(house, run, where, at))
        self._rollouts = house.dataset("rollouts", at)
        self._episodes = self._positions(run, wanted)
        self.count = sum(len(positions) for positions in self._episodes)
        self._prompts = _Referred(house, "prompts", ("prompt_id",), at)
        self._tasks = _Referred(house, "tasks", ("task_id",), at)
        self._tokens = _Referred(house, "prompt_tokens", ("prompt_id", "tokenizer_hash", "template_hash"), at)

    def __iter__(self) -> Iterator[list[Rollout]]:
        """The rollouts of one episode after another's."""
        order = [(number, position) for number, positions in enumerate(self._episodes) for position in positions]
        rows = self._rows([position for _, position in order])
        for _, episode in groupby(zip(order, rows, strict=True), key=lambda pair: pair[0][0]):
            yield [self._rollout(row) for _, row in episode]

    def _positions(self, run: str | None, wanted: set[str] | None) -> list[list[int]]:
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

    def _rollout(self, row: Row) -> Rollout:
        prompt = self._prompts.get(row["prompt_id"]) or {}
        tokens = self._tokens.get(row["prompt_id"], row["tokenizer_hash"], row["template_hash"]) or {}
        messages, gaps, extra = (row.pop(name) for name in ("messages", "gaps", "extra"))
        return Rollout(
            prompt=[Message.from_row(message) for message in prompt.get("messages") or ()],
            tools=value_of(prompt.get("tools")) or [],
            messages=[Message.from_row(message) for message in messages or ()],
            columns=row,
            prompt_ids=tokens.get("token_ids"),
            task=_task(self._tasks.get(row["task_id"])),
            extra=value_of(extra) or {},
            gaps=set(gaps or ()),
        )


class _Referred:
    """Rows of a table by a key of some columns; the last few are kept."""

    def __init__(self, house: House, table: str, key: tuple[str, ...], at: str | None) -> None:
        self._data = house.dataset(table, at)
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


def _ids(house: House, run: str | None, where: str, at: str | None) -> list[str]:
    narrowed = "" if run is None else f"run_id = {quote(run)} AND "
    return sql(house, f"SELECT rollout_id FROM rollouts WHERE {narrowed}({where})", at)["rollout_id"].to_pylist()
