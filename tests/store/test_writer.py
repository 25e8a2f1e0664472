"""The writer: valid rows only, prompts first, each rollout once, whoever dies and whoever comes second."""

import threading
import time

import pytest
from rollhouse.store.errors import SchemaMismatch, WriteConflict
from rollhouse.store.house import House
from rollhouse.store.runs import get_run, start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import prompt_row, prompt_tokens_row, rollout_row, task_row


def ids_in(house: House) -> list[str]:
    return house.read("rollouts", ["rollout_id"])["rollout_id"].to_pylist()


def test_what_was_added_and_flushed_is_there_with_what_it_refers_to(house: House) -> None:
    with start_run(house, "collect", "r") as run, RolloutWriter(house, run) as writer:
        for i in range(4):
            writer.add(rollout_row("r", i), prompt_row(), task_row(), prompt_tokens_row())
        assert ids_in(house) == []
        writer.flush()
        assert len(ids_in(house)) == writer.written == 4
    for table in ("prompts", "prompt_tokens", "tasks"):
        assert house.read(table).num_rows == 1
    # One commit for the batch and one for each thing it refers to.
    assert house.dataset("rollouts").version == house.dataset("prompts").version == 2


def test_bytes_and_age_flush_by_themselves(house: House) -> None:
    with start_run(house, "collect", "bytes") as run, RolloutWriter(house, run, max_bytes=1, max_age_s=60) as writer:
        writer.add(rollout_row("bytes"))
        assert len(ids_in(house)) == 1
    with start_run(house, "collect", "age") as run, RolloutWriter(house, run, max_age_s=0.05) as writer:
        writer.add(rollout_row("age"))
        deadline = time.monotonic() + 20
        while len(ids_in(house)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(ids_in(house)) == 2


def test_finish_flushes_the_open_writer(house: House) -> None:
    with start_run(house, "collect", "r") as run, RolloutWriter(house, run) as writer:
        writer.add(rollout_row("r"))
        run.finish({"rollouts": 1})
        assert len(ids_in(house)) == 1


def test_the_same_rollout_twice_is_once(house: House) -> None:
    with start_run(house, "collect", "r") as run, RolloutWriter(house, run) as writer:
        assert writer.add(rollout_row("r", 0, reward=1.0))
        assert not writer.add(rollout_row("r", 0, reward=0.0))
        writer.flush()
        assert not writer.add(rollout_row("r", 0, reward=0.0))
        assert (writer.written, writer.skipped) == (1, 2)
    assert house.read("rollouts")["reward"].to_pylist() == [1.0]


def test_a_resumed_run_and_an_import_insert_only_what_is_absent(house: House) -> None:
    for kind in ("collect", "import"):
        with start_run(house, kind, kind) as run, RolloutWriter(house, run) as writer:
            writer.add(rollout_row(kind, 0))
        with start_run(house, kind, kind) as run, RolloutWriter(house, run) as writer:
            for i in range(3):
                writer.add(rollout_row(kind, i))
            writer.flush()
            assert (writer.written, writer.skipped) == (2, 1)
    # An import's ids do not depend on its run.
    with start_run(house, "import", "again") as run, RolloutWriter(house, run) as writer:
        writer.add(rollout_row("import", 0) | {"run_id": "again"})
    assert len(ids_in(house)) == 6


def test_an_append_of_unknown_outcome_is_retried_as_insert_if_absent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = House.append

    def lands_but_raises(self: House, table: str, rows: object, before_commit: object) -> int:
        append(self, table, rows)  # type: ignore[arg-type]
        raise OSError("connection lost")

    with start_run(house, "collect", "r") as run, RolloutWriter(house, run) as writer:
        writer.add(rollout_row("r"))
        monkeypatch.setattr(House, "append", lands_but_raises)
        with pytest.raises(OSError):
            writer.flush()
        monkeypatch.undo()
        writer.flush()
    assert len(ids_in(house)) == 1


def test_a_failure_in_the_background_reaches_the_caller_and_loses_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def full(self: House, table: str, rows: object, before_commit: object) -> int:
        failed.set()
        raise OSError(28, "No space left on device")

    with start_run(house, "collect", "r") as run, RolloutWriter(house, run, max_age_s=0.01) as writer:
        monkeypatch.setattr(House, "append", full)
        writer.add(rollout_row("r", 0))
        assert failed.wait(20)
        while writer._failure is None:
            time.sleep(0.01)
        with pytest.raises(OSError, match="No space left"):
            writer.add(rollout_row("r", 1))
        monkeypatch.undo()
        writer.add(rollout_row("r", 1))
    assert len(ids_in(house)) == 2


def test_what_was_collected_before_an_exception_is_kept(house: House) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        start_run(house, "collect", "r") as run,
        RolloutWriter(house, run) as writer,
    ):
        writer.add(rollout_row("r"))
        raise KeyboardInterrupt
    assert len(ids_in(house)) == 1
    assert get_run(house, "r")["status"] == "aborted"


def test_a_second_writer_of_the_run_is_refused_by_name(house: House) -> None:
    with start_run(house, "collect", "r") as run:
        with (
            RolloutWriter(house, run),
            pytest.raises(WriteConflict, match="Run 'r' already has an open writer"),
        ):
            RolloutWriter(house, run)
        with RolloutWriter(house, run) as writer:
            writer.add(rollout_row("r"))
    with pytest.raises(WriteConflict):
        RolloutWriter(house, run)
    with pytest.raises(WriteConflict, match="closed"):
        writer.add(rollout_row("r", 1))


def test_a_writer_whose_run_was_taken_over_does_not_write(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollhouse.store import lease as leases

    sleeper = start_run(house, "collect", "r")
    writer = RolloutWriter(house, sleeper, max_age_s=60)
    writer.add(rollout_row("r"))
    # To everybody else its process looks dead.
    monkeypatch.setattr(leases, "is_alive", lambda state: False)
    with start_run(house, "collect", "r") as run, RolloutWriter(house, run) as other:
        other.add(rollout_row("r"))
    monkeypatch.undo()
    with pytest.raises(WriteConflict, match="taken over"):
        writer.flush()
    assert len(ids_in(house)) == 1


def test_many_threads_may_add(house: House) -> None:
    with start_run(house, "collect", "r") as run, RolloutWriter(house, run, max_bytes=20_000) as writer:
        threads = [
            threading.Thread(target=lambda n=n: [writer.add(rollout_row("r", n * 50 + i)) for i in range(50)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ids_in(house)) == len(set(ids_in(house))) == 200


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"rollout_id": None}, "rollout_id is missing"),
        ({"slot_id": None}, "slot_id is missing"),
        ({"run_id": "other"}, "run_id is 'other'"),
        ({"status": "fine"}, "status 'fine'"),
        ({"reward": float("nan")}, "reward is nan"),
        ({"loss_mask": [1]}, "4 token_ids but 1 in loss_mask"),
        ({"loss_mask": None}, "go together"),
        ({"logprobs": [-0.5]}, "3 sampled tokens but 1 logprobs"),
        ({"logprobs": [-0.5, float("nan"), 0.0]}, "not a number"),
        ({"version_spans": [{"start": 2, "version": 0}, {"start": 1, "version": 1}]}, "version_spans"),
        ({"version_spans": [{"start": 9, "version": 0}]}, "version_spans"),
        ({"reward": "high"}, "does not fit"),
        ({"colour": "red"}, "no column 'colour'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_its_neighbours_stay(house: House, columns: dict, problem: str) -> None:
    with start_run(house, "collect", "r") as run, RolloutWriter(house, run) as writer:
        writer.add(rollout_row("r", 0))
        with pytest.raises(SchemaMismatch, match=problem):
            writer.add(rollout_row("r", 1) | columns)
        writer.add(rollout_row("r", 2))
    assert len(ids_in(house)) == 2


def test_not_observed_and_nothing_generated_are_different(house: House) -> None:
    nothing = {"token_ids": [], "loss_mask": [], "logprobs": [], "version_spans": []}
    with start_run(house, "collect", "r") as run, RolloutWriter(house, run) as writer:
        writer.add(rollout_row("r", 0) | nothing)
        writer.add(rollout_row("r", 1) | dict.fromkeys(nothing))
    rows = {row["sample_index"]: row for row in house.read("rollouts").to_pylist()}
    assert all(rows[0][name] == [] and rows[1][name] is None for name in nothing)
