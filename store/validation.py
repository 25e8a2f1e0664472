"""What a rollout must be before it enters a store, checked a batch at a time on Arrow columns."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..base.errors import SchemaMismatch, one_line
from .ids import PLAIN_ID, has_id_form
from .rollout import ROLLOUTS, STATUSES, Rollout

# Arrow makes its compute functions when it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

# Columns of `rollouts` that are never null.
REQUIRED = ("rollout_id", "slot_id", "run_id", "status", "environment", "sample_index", "attempt")
FLOATS = tuple(field.name for field in ROLLOUTS.schema if field.type == pa.float32())
IDS = ("rollout_id", "slot_id", "group_id", "episode_id")
_STATUSES = pa.array(STATUSES)
_LARGEST = float(np.finfo(np.float32).max)

# A problem: the row it is in, and what it is.
Problem = tuple[int, str]


def surely_fine(rollout: Rollout, run_id: str) -> bool:
    """Whether a rollout is plainly valid; if not, check_rollouts decides. For rollouts that come one by one."""
    tokens, mask, logprobs = rollout.token_ids, rollout.loss_mask, rollout.logprobs
    if not (isinstance(tokens, list) and isinstance(mask, list) and isinstance(logprobs, list)):
        return False
    if len(tokens) != len(mask) or len(logprobs) != sum(mask) or not abs(sum(logprobs)) <= _LARGEST:
        return False
    spans = rollout.version_spans or ()
    return (
        rollout.run_id == run_id
        and rollout.status in STATUSES
        and all((number := getattr(rollout, name)) is None or abs(number) <= _LARGEST for name in FLOATS)
        and (len(spans) == 0 or (len(spans) == 1 and spans[0].start == 0))
        and all(getattr(rollout, name) is not None for name in REQUIRED)
        and all((id := getattr(rollout, name)) is None or has_id_form(id) for name in IDS)
    )


def check_rollouts(batch: pa.RecordBatch, run_id: str) -> None:
    """Raises SchemaMismatch naming the first rollout that is wrong, and how. `batch` has the table's schema."""
    problem = _scalar_problem(batch, run_id) or _token_problem(batch)
    if problem is None:
        return
    row, what = problem
    name = batch.column("rollout_id")[row].as_py()
    raise SchemaMismatch(f"Rollout {one_line(name, 80)}: {what}.", "See docs/store.md for its columns.")


def _scalar_problem(batch: pa.RecordBatch, run_id: str) -> Problem | None:
    for name in REQUIRED:
        column = batch.column(name)
        if column.null_count:
            return _first(column.is_null()), f"{name} is missing"
    for name in IDS:
        ids = batch.column(name)
        fine = pc.and_(pc.match_substring_regex(ids, PLAIN_ID), pc.less_equal(pc.binary_length(ids), 200))
        odd = pc.invert(fine).fill_null(False)
        for row in pc.indices_nonzero(odd).to_pylist() if odd.true_count else ():
            if not has_id_form(id := ids[row].as_py()):
                return row, f"{name} {id[:80]!r} is not an id: use letters, digits and _.:@#=+~,-"
    runs, statuses = batch.column("run_id"), batch.column("status")
    other = pc.not_equal(runs, run_id)
    if other.true_count:
        row = _first(other)
        return row, f"run_id is {runs[row].as_py()!r}, but the writer's run is {run_id!r}"
    unknown = pc.invert(pc.is_in(statuses, value_set=_STATUSES))
    if unknown.true_count:
        row = _first(unknown)
        return row, f"status {statuses[row].as_py()!r} is not one of {', '.join(STATUSES)}"
    for name in FLOATS:
        endless = ~np.isfinite(batch.column(name).fill_null(0).to_numpy(zero_copy_only=False))
        if endless.any():
            row = int(endless.argmax())
            advice = "; write null and an error_type when there is no verdict" if name == "reward" else ""
            return row, f"{name} is {batch.column(name)[row].as_py()}{advice}"
    return None


def _token_problem(batch: pa.RecordBatch) -> Problem | None:
    token_ids, loss_mask, logprobs = (batch.column(name) for name in ("token_ids", "loss_mask", "logprobs"))
    n_tokens, has_tokens = _lengths(token_ids)
    n_mask, has_mask = _lengths(loss_mask)
    n_logprobs, has_logprobs = _lengths(logprobs)
    if (lone := has_tokens != has_mask).any():
        return int(lone.argmax()), "token_ids and loss_mask go together; one of them is null"
    if (lone := ~has_tokens & (n_logprobs > 0)).any():
        return int(lone.argmax()), "logprobs without token_ids"
    if (uneven := n_tokens != n_mask).any():
        row = int(uneven.argmax())
        return row, f"{n_tokens[row]} token_ids but {n_mask[row]} in loss_mask"
    n_sampled = _sums(loss_mask, n_mask)
    if (uneven := has_logprobs & (n_logprobs != n_sampled)).any():
        row = int(uneven.argmax())
        return row, f"{n_sampled[row]} sampled tokens but {n_logprobs[row]} logprobs"
    # A null in the list is not a number either: numpy has it as one.
    if (wrong := np.isnan(_values(logprobs))).any():
        return _row_of(n_logprobs, int(wrong.argmax())), "a logprob is not a number"
    return _span_problem(batch.column("version_spans"), n_tokens)


def _span_problem(spans: pa.ListArray, n_tokens: np.ndarray) -> Problem | None:
    n_spans, _ = _lengths(spans)
    starts = spans.flatten().field("start").to_numpy(zero_copy_only=False)
    row_of = np.repeat(np.arange(len(n_spans)), n_spans)
    wrong = ~((starts >= 0) & (starts <= n_tokens[row_of]))  # a null start is not a number, and wrong
    wrong[1:] |= (row_of[1:] == row_of[:-1]) & ~(starts[1:] > starts[:-1])
    if wrong.any():
        return int(row_of[wrong.argmax()]), "version_spans do not rise within token_ids"
    return None


def _lengths(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """The length of each list (0 where it is null), and whether it is there."""
    lengths = np.diff(lists.offsets.to_numpy())
    if not lists.null_count:
        return lengths, np.ones(len(lists), bool)
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    return np.where(there, lengths, 0), there


def _values(lists: pa.ListArray) -> np.ndarray:
    return lists.flatten().to_numpy(zero_copy_only=False)


def _sums(lists: pa.ListArray, lengths: np.ndarray) -> np.ndarray:
    running = np.concatenate([[0], np.cumsum(_values(lists), dtype=np.int64)])
    ends = np.cumsum(lengths)
    return running[ends] - running[ends - lengths]


def _row_of(lengths: np.ndarray, position: int) -> int:
    return int(np.searchsorted(np.cumsum(lengths), position, side="right"))


def _first(mask: pa.BooleanArray) -> int:
    return mask.index(True).as_py()
