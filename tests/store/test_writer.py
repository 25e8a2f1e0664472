"""The writer: valid rows only, prompts first, each rollout once, after kills and takeovers too."""

import math
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.base.errors import SchemaMismatch, WriteConflict
from rollhouse.store import writer as writing
from rollhouse.store.appending import to_arrow
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import VersionSpan
from rollhouse.store.rollout import ROLLOUTS, Rollout
from rollhouse.store.runs import get_run, start_run
from rollhouse.store.validation import check_rollouts, surely_fine
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import prompt_row, rollout_row, sum_rollout, task_row


def ids_in(store: LanceStore) -> list[str]:
    return store.read("rollouts", ["rollout_id"])["rollout_id"].to_pylist()


def test_what_was_added_and_flushed_is_there_with_what_it_refers_to(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        for i in range(4):
            writer.add(sum_rollout("r", i))
        assert ids_in(store) == []
        writer.flush()
        assert len(ids_in(store)) == writer.written == 4
    for table in ("prompts", "prompt_tokens", "tasks"):
        assert store.read(table).num_rows == 1
    # One commit for the batch and one for each thing it refers to.
    assert store.lance_dataset("rollouts").version == store.lance_dataset("prompts").version == 2


def test_bytes_and_age_flush_by_themselves(store: LanceStore) -> None:
    with start_run(store, "collect", "bytes") as run, RolloutWriter(store, run, max_bytes=1, max_age_s=60) as writer:
        writer.add(sum_rollout("bytes"))
        assert len(ids_in(store)) == 1
    with start_run(store, "collect", "age") as run, RolloutWriter(store, run, max_age_s=0.05) as writer:
        writer.add(sum_rollout("age"))
        deadline = time.monotonic() + 20
        while len(ids_in(store)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(ids_in(store)) == 2


def test_finish_flushes_the_open_writer(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        writer.add(sum_rollout("r"))
        run.finish({"rollouts": 1})
        assert len(ids_in(store)) == 1


def test_the_same_rollout_twice_is_once(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        assert writer.add(sum_rollout("r", 0, reward=1.0))
        assert not writer.add(sum_rollout("r", 0, reward=0.0))
        writer.flush()
        assert not writer.add(sum_rollout("r", 0, reward=0.0))
        assert (writer.written, writer.skipped) == (1, 2)
    assert store.read("rollouts")["reward"].to_pylist() == [1.0]


def test_a_resumed_run_and_an_import_insert_only_what_is_absent(store: LanceStore) -> None:
    for kind in ("collect", "import"):
        with start_run(store, kind, kind) as run, RolloutWriter(store, run) as writer:
            writer.add(sum_rollout(kind, 0))
        with start_run(store, kind, kind) as run, RolloutWriter(store, run) as writer:
            for i in range(3):
                writer.add(sum_rollout(kind, i))
            writer.flush()
            assert (writer.written, writer.skipped) == (2, 1)
    # An import's ids do not depend on its run.
    with start_run(store, "import", "again") as run, RolloutWriter(store, run) as writer:
        writer.add(sum_rollout("import", 0).changed(run_id="again"))
    assert len(ids_in(store)) == 6


def test_an_append_of_unknown_outcome_is_retried_as_insert_if_absent(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = writing.append_rows

    def lands_but_raises(of: LanceStore, table: str, rows: Any, before_commit: object) -> int:
        append(of, table, rows)
        raise OSError("connection lost")

    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        writer.add(sum_rollout("r"))
        monkeypatch.setattr(writing, "append_rows", lands_but_raises)
        with pytest.raises(OSError):
            writer.flush()
        monkeypatch.undo()
        writer.flush()
    assert len(ids_in(store)) == 1


def test_a_check_that_fails_after_the_commit_leaves_no_copy(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollhouse.store.lease import Lease

    checks = 0
    check = Lease.check

    def unreachable_at_last(self: Lease) -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            raise OSError("connection lost")
        check(self)

    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        writer.add(sum_rollout("r"))
        monkeypatch.setattr(Lease, "check", unreachable_at_last)
        with pytest.raises(OSError):
            writer.flush()
        assert len(ids_in(store)) == 1
    assert len(ids_in(store)) == 1 and checks > 3


def test_a_failure_in_the_background_reaches_the_caller_and_loses_nothing(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def full(of: LanceStore, table: str, rows: object, before_commit: object) -> int:
        failed.set()
        raise OSError(28, "No space left on device")

    with start_run(store, "collect", "r") as run, RolloutWriter(store, run, max_age_s=0.01) as writer:
        monkeypatch.setattr(writing, "append_rows", full)
        writer.add(sum_rollout("r", 0))
        assert failed.wait(20)
        while writer._failure is None:
            time.sleep(0.01)
        with pytest.raises(OSError, match="No space left"):
            writer.add(sum_rollout("r", 1))
        monkeypatch.undo()
        writer.add(sum_rollout("r", 1))
    assert len(ids_in(store)) == 2


def test_what_was_collected_before_an_exception_is_kept(store: LanceStore) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        start_run(store, "collect", "r") as run,
        RolloutWriter(store, run) as writer,
    ):
        writer.add(sum_rollout("r"))
        raise KeyboardInterrupt
    assert len(ids_in(store)) == 1
    assert get_run(store, "r")["status"] == "aborted"


def test_a_second_writer_of_the_run_is_refused_by_name(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run:
        with (
            RolloutWriter(store, run),
            pytest.raises(WriteConflict, match="Run 'r' already has an open writer"),
        ):
            RolloutWriter(store, run)
        with RolloutWriter(store, run) as writer:
            writer.add(sum_rollout("r"))
    with pytest.raises(WriteConflict):
        RolloutWriter(store, run)
    with pytest.raises(WriteConflict, match="closed"):
        writer.add(sum_rollout("r", 1))


def test_a_writer_whose_run_was_taken_over_does_not_write(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollhouse.store import lease as leases

    sleeper = start_run(store, "collect", "r")
    writer = RolloutWriter(store, sleeper, max_age_s=60)
    writer.add(sum_rollout("r"))
    # To everybody else its process looks dead.
    monkeypatch.setattr(leases, "is_alive", lambda state: False)
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as other:
        other.add(sum_rollout("r"))
    monkeypatch.undo()
    with pytest.raises(WriteConflict, match="taken over"):
        writer.flush()
    assert len(ids_in(store)) == 1


def test_known_rows_are_not_written_again(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        known, new = sum_rollout("r", 0), sum_rollout("r", 1, text="Add 3 and 4.")
        assert known.prompt_id is not None and new.prompt_id is not None
        writer.tell([known.prompt_id])
        assert writer.has(known.prompt_id) and not writer.has(new.prompt_id)
        writer.add_many([known, new])
        assert writer.has(new.prompt_id)
    assert store.read("prompts")["prompt_id"].to_pylist() == [new.prompt_id]


def test_many_threads_may_add(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run, max_bytes=20_000) as writer:
        threads = [
            threading.Thread(target=lambda n=n: [writer.add(sum_rollout("r", n * 50 + i)) for i in range(50)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ids_in(store)) == len(set(ids_in(store))) == 200


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"run_id": "other"}, "run_id is 'other'"),
        ({"status": "fine"}, "status 'fine'"),
        ({"reward": float("nan")}, "reward is nan"),
        ({"loss_mask": [1]}, "4 token_ids but 1 in loss_mask"),
        ({"loss_mask": None}, "go together"),
        ({"logprobs": [-0.5]}, "3 sampled tokens but 1 logprobs"),
        ({"logprobs": [-0.5, float("nan"), 0.0]}, "not a number"),
        ({"version_spans": [VersionSpan(2, 0), VersionSpan(1, 1)]}, "version_spans"),
        ({"version_spans": [VersionSpan(9, 0)]}, "version_spans"),
        ({"policy_version": "high"}, "does not fit"),
        ({"error_message": "half a pair: \ud800"}, "does not fit"),
    ],
)
def test_a_rollout_that_does_not_fit_is_refused_and_its_neighbours_stay(
    store: LanceStore, columns: dict, problem: str
) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        writer.add(sum_rollout("r", 0))
        with pytest.raises(SchemaMismatch, match=problem):
            writer.add(sum_rollout("r", 1).changed(**columns))
        writer.add(sum_rollout("r", 2))
    assert len(ids_in(store)) == 2


def test_not_observed_and_nothing_generated_are_different(store: LanceStore) -> None:
    nothing: dict[str, Any] = {"token_ids": [], "loss_mask": [], "logprobs": [], "version_spans": []}
    no_tokens: dict[str, Any] = dict.fromkeys(nothing)
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        writer.add(sum_rollout("r", 0, **nothing))
        writer.add(sum_rollout("r", 1, **no_tokens))
    rows = {row["sample_index"]: row for row in store.read("rollouts").to_pylist()}
    assert all(rows[0][name] == [] and rows[1][name] is None for name in nothing)


def test_many_at_once_are_as_if_one_by_one(store: LanceStore) -> None:
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run) as writer:
        writer.add(sum_rollout("r", 0))
        assert writer.add_many([sum_rollout("r", i) for i in (0, 1, 1, 2)]) == 2
        with pytest.raises(SchemaMismatch, match=r"Rollout \w+: run_id is 'other'"):
            writer.add_many([sum_rollout("r", 3), sum_rollout("other", 4)])
        assert writer.add_many([]) == 0
    assert (writer.written, writer.skipped) == (3, 2)
    assert sorted(store.read("rollouts")["sample_index"].to_pylist()) == [0, 1, 2]
    for table in ("prompts", "prompt_tokens", "tasks"):
        assert store.read(table).num_rows == 1


def test_an_arrow_table_is_taken_without_python_rows(store: LanceStore) -> None:
    rows = to_arrow("rollouts", [rollout_row("r", i) for i in range(50)])
    some = rows.select(list(reversed(rows.column_names))).slice(10)
    references = [to_arrow("prompts", [prompt_row()]), to_arrow("tasks", [task_row()])]
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run, max_bytes=10_000) as writer:
        assert writer.add_table(some, *references) == 40
        assert len(store.lance_dataset("rollouts").get_fragments()) > 1
        assert writer.add_table(rows, *references) == 10
        broken = to_arrow("rollouts", [rollout_row("r", 60), rollout_row("r", 61, logprobs=[0.0])])
        with pytest.raises(SchemaMismatch, match="3 sampled tokens but 1 logprobs"):
            writer.add_table(broken)
        for column in ("rollout_id", "slot_id"):
            with pytest.raises(SchemaMismatch, match=f"{column} is missing"):
                writer.add_table(to_arrow("rollouts", [rollout_row("r", 60) | {column: None}]))
        with pytest.raises(SchemaMismatch, match="no column 'colour'"):
            writer.add_table(rows.append_column("colour", rows["status"]))
    assert writer.written == store.read("rollouts").num_rows == 50
    assert store.read("prompts").num_rows == store.read("tasks").num_rows == 1


def test_a_writer_that_forgot_what_it_wrote_reads_the_store(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollhouse.store.writer import KnownKeys

    monkeypatch.setattr(KnownKeys.__init__, "__defaults__", (20,))
    with start_run(store, "collect", "r") as run, RolloutWriter(store, run, max_bytes=1) as writer:
        for i in (*range(40), *range(40)):
            writer.add(sum_rollout("r", i))
        assert len(writer._rollouts._keys) <= 20
    assert len(ids_in(store)) == len(set(ids_in(store))) == writer.written == 40
    assert writer.skipped == 40


JSON_LISTS = st.fixed_dictionaries(
    {
        "token_ids": st.none() | st.lists(st.integers(0, 9), max_size=4),
        "loss_mask": st.none() | st.lists(st.integers(0, 1), max_size=4),
        "logprobs": st.none() | st.lists(st.floats(-2, 0) | st.just(float("nan")), max_size=4),
        "version_spans": st.none() | st.lists(st.fixed_dictionaries({"start": st.integers(-1, 5)}), max_size=2),
        "reward": st.none() | st.sampled_from([0.0, 1.0, float("inf"), float("nan")]),
        "status": st.sampled_from(["completed", "error", "fine"]),
        "run_id": st.sampled_from(["r", "s"]),
    }
)


def _is_right(row: dict) -> bool:
    """The rules again, one by one and slowly."""
    tokens, mask, logprobs, spans = (row[name] for name in ("token_ids", "loss_mask", "logprobs", "version_spans"))
    starts = [span["start"] for span in spans or ()]
    return (
        row["run_id"] == "r"
        and row["status"] != "fine"
        and (row["reward"] is None or math.isfinite(row["reward"]))
        and (tokens is None) == (mask is None)
        and (tokens is not None or not logprobs)
        and len(tokens or ()) == len(mask or ())
        and (logprobs is None or tokens is None or len(logprobs) == sum(mask))
        and not any(map(math.isnan, logprobs or ()))
        and all(0 <= start <= len(tokens or ()) for start in starts)
        and starts == sorted(set(starts))
    )


@given(st.lists(JSON_LISTS, min_size=1, max_size=4))
def test_one_by_one_and_many_at_once_refuse_the_same_rows(columns: list[dict]) -> None:
    rows = [rollout_row("r", i) | some for i, some in enumerate(columns)]
    for row in rows:
        if surely_fine(Rollout.from_row(row), "r"):
            assert _is_right(row)
    batch = ROLLOUTS.batch_of_rows(rows)
    wrong = [row["rollout_id"] for row in rows if not _is_right(row)]
    if wrong:
        with pytest.raises(SchemaMismatch) as refused:
            check_rollouts(batch, "r")
        assert any(f"Rollout {name}:" in str(refused.value) for name in wrong)
    else:
        check_rollouts(batch, "r")
