"""Commits beside the steps: in order, none after one that failed, and nothing has a step's weights before its batch is in the store."""

import threading
import time

import pytest
from rollhouse.store.maintenance import check
from rollhouse.store.runs import get_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.train.grpo import batches, loop
from rollhouse.train.grpo.ledger import as_stored, read_rollouts
from rollhouse.train.grpo.parts import Commits

SMALL = {"grpo__num_prompts_per_step": 2, "grpo__num_generations_per_prompt": 2, "grpo__max_num_steps": 2}


def test_commits_come_in_order_and_on_another_thread():
    came = []
    with Commits() as commits:
        for number in range(20):
            commits.begin(lambda number=number: came.append((number, threading.current_thread())))
        commits.wait()
        assert [number for number, _ in came] == list(range(20))
        assert {thread for _, thread in came}.isdisjoint({threading.current_thread()})
        assert commits.take_seconds() > 0 and commits.take_seconds() == 0


def test_what_was_begun_is_done_when_the_block_ends():
    came, go_on = [], threading.Event()
    with Commits() as commits:
        commits.begin(go_on.wait)
        commits.begin(lambda: came.append(1))
        go_on.set()
    assert came == [1]


def test_after_a_failed_commit_there_is_none_and_its_error_is_raised():
    came = []
    with pytest.raises(ZeroDivisionError), Commits() as commits:
        commits.begin(lambda: came.append(1))
        commits.begin(lambda: 1 / 0)
        commits.begin(lambda: came.append(2))
        with pytest.raises(ZeroDivisionError):
            commits.wait()
        with pytest.raises(ZeroDivisionError):
            commits.wait()
    assert came == [1]


def test_the_error_on_its_way_is_the_one_to_show():
    with pytest.raises(KeyError), Commits() as commits:
        commits.begin(lambda: 1 / 0)
        raise KeyError


class Watched:
    """The engine, and what the store had of the step when it was given the step's weights."""

    def __init__(self, engine, store, run):
        self.engine, self.store, self.run = engine, store, run
        self.had = {}

    def __getattr__(self, name):
        return getattr(self.engine, name)

    async def load_weights(self, path, version):
        plans = self.store.read("batch_plans", filter=f"run_id = '{self.run}' and step = {version}").to_pylist()
        rows = self.store.read("rollouts", ["rollout_id"], f"run_id = '{self.run}'")["rollout_id"].to_pylist()
        planned = [entry["rollout_id"] for plan in plans for entry in plan["entries"]]
        self.had[version] = len(plans), bool(planned) and set(planned) <= set(rows)
        await self.engine.load_weights(path, version)


def test_no_engine_has_weights_of_a_batch_that_is_not_in_the_store(prompt_store, configure, train_here, monkeypatch):
    engines, given = [], []
    commit_plan = batches.commit_plan

    def late(*arguments):
        time.sleep(0.5)
        commit_plan(*arguments)

    def watched(engine):
        engines.append(Watched(engine, prompt_store, "watched"))
        return engines[0]

    def as_given(rows):
        given.append(as_stored(rows))
        return given[-1]

    monkeypatch.setattr(batches, "commit_plan", late)
    monkeypatch.setattr(batches, "as_stored", as_given)
    versions = {table: prompt_store.lance_dataset(table).version for table in ("tasks", "prompts")}
    train_here(configure(run="watched", **SMALL), watched)
    assert engines[0].had == {0: (0, False), 1: (1, True), 2: (1, True)}
    for step, rows in enumerate(given, 1):
        read = {row["rollout_id"]: row for row in read_rollouts(prompt_store, "watched", step, list(rows[0]))}
        assert {row["rollout_id"]: row for row in rows} == read, "what a step is taken on is what the store has"
    assert len(given) == 2
    assert {table: prompt_store.lance_dataset(table).version for table in versions} == versions, (
        "those of the set were there"
    )
    outcomes = prompt_store.read("training_outcomes", ["step"], "run_id = 'watched'")["step"].to_pylist()
    kept = sum(entry["kept"] for plan in prompt_store.read("batch_plans", filter="run_id = 'watched'").to_pylist() for entry in plan["entries"])  # fmt: skip
    assert len(outcomes) == kept


@pytest.mark.parametrize(
    ("place", "name", "pushed"),
    [(RolloutWriter, "_commit_rollouts", 0), (batches, "commit_plan", 0), (loop, "commit_outcomes", 1)],
    ids=["rollouts", "plan", "outcomes"],
)
def test_a_commit_that_fails_ends_the_run_and_the_same_command_goes_on(
    prompt_store, configure, train_here, monkeypatch, place, name, pushed
):
    run, engines, real, failed = f"full-{name.strip('_')}", [], getattr(place, name), []

    def fails_once(*arguments):
        if not failed:
            failed.append(name)
            raise OSError(28, "No space left on device")
        return real(*arguments)

    def watched(engine):
        engines.append(Watched(engine, prompt_store, run))
        return engines[-1]

    monkeypatch.setattr(place, name, fails_once)
    monkeypatch.setattr(RolloutWriter, "_start_timer", lambda self: None)  # on a slow machine it would take the failure
    config = configure(run=run, **SMALL)
    with pytest.raises(OSError, match="No space left"):
        train_here(config, watched)
    assert get_run(prompt_store, run)["status"] == "failed"
    assert max(engines[0].had) == pushed, "no weights of a batch that is not in the store"
    assert not list((config.checkpointing.checkpoint_dir / run).glob("*")), "no checkpoint of a step that is not"
    train_here(config, watched)
    rows = prompt_store.read("rollouts", ["slot_id"], f"run_id = '{run}'")["slot_id"].to_pylist()
    assert len(set(rows)) == len(rows) == 2 * 2 * 2, "no slot is empty, none was filled twice"
    assert get_run(prompt_store, run)["status"] == "finished" and not check(prompt_store)
