"""What only a store makes possible: replays, first batches out of history, prompts chosen by SQL. One small run serves all tests."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError, QueryError, StoreNotFound
from rollhouse.cli.main import app
from rollhouse.collect.runner import collect
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run, start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.store.task import Task
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.history import refuse_bad_warm_start, warm_batch
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.loop import train_grpo
from rollhouse.train.grpo.original import stored_config
from rollhouse.train.grpo.prompts import curriculum_prompts, prompts_of_step, refuse_bad_query
from rollhouse.train.grpo.replay import replay
from rollhouse.transform.build import build_grpo
from rollhouse.transform.materialize import grpo_tasks
from rollhouse.transform.versions import get_dataset
from typer.testing import CliRunner, Result

from .settings import learner_config

GROUP, PROMPTS = 6, 4
SOME = "select task_id, 1.0 + $step * 0 as weight from tasks where split = 'train' and $run_id <> '' order by task_id limit 6"
"""A curriculum of six tasks."""

Configure = Callable[..., GrpoConfig]


@pytest.fixture(scope="module")
def configure(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """`configure(section__key=value)`: the settings of run `first`, with changes.

    Two steps of two updates each, generated asynchronously: the first from history (run `sampled`), the second of a curriculum.
    """
    query = tmp_path_factory.mktemp("curriculum") / "some.sql"
    query.write_text(SOME)

    def make(**changes: Any) -> GrpoConfig:
        values: dict[str, Any] = {
            "run": "first",
            "dataset": "prompts",
            "policy": {
                "model_name": str(tiny_base),
                "max_total_sequence_length": 512,
                "optimizer": {"lr": 1e-4},
                "generation": {"max_new_tokens": 48},
            },
            "grpo": {
                "num_prompts_per_step": PROMPTS,
                "num_generations_per_prompt": GROUP,
                "max_num_steps": 2,
                "num_updates_per_batch": 2,
                "async_grpo": {"enabled": True},
                "warm_start": {"runs": ["sampled"], "num_steps": 1},
                "curriculum": {"query": str(query)},
            },
            "checkpointing": {"save_period": 1},
        }
        for key, value in changes.items():
            *sections, name = key.split("__")
            inner = values
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[name] = value
        return GrpoConfig.model_validate(values)

    return make


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, engine: Any, configure: Configure) -> LanceStore:
    """A store with rollouts of the base policy, run `sampled`, and the GRPO run `first`."""
    store = LanceStore.create(tmp_path_factory.mktemp("replay") / "store")
    environment = MiniEnvironment(n_train=12)
    with start_run(store, "collect", "script") as run:
        collect(store, run, environment, ScriptedPolicy(mistake_rate=0.5), environment.tasks("train"), num_repeats=4)
    create_snapshot(store, "s1")
    assert build_grpo(store, "prompts", "s1").n_rows >= 8
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    with start_run(store, "collect", "sampled") as run:
        policy = TokenPolicy(engine, ChatFormat.of(tiny_base), policy_id="base")
        sampling = Sampling(temperature=1.0, max_tokens=48, seed=1)
        collect(store, run, environment, policy, environment.tasks("train"), num_repeats=GROUP + 2, sampling=sampling)
    train_grpo(store, configure(), engine=engine)
    return store


@pytest.fixture(scope="module")
def tasks(store: LanceStore) -> list[Task]:
    """The prompt set's."""
    return grpo_tasks(store, get_dataset(store, "prompts"))


@pytest.fixture(scope="module")
def learner(tiny_base: Path) -> Learner:
    """One that has learned nothing since the base policy."""
    return Learner(str(tiny_base), learner_config())


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(store: LanceStore, table: str, run: str) -> list[dict[str, Any]]:
    found = store.read(table, filter=f"run_id = '{run}'").to_pylist()
    return sorted(found, key=lambda row: row["step"])


def test_a_replay_makes_the_same_bits_and_says_so(store: LanceStore) -> None:
    before = store.lance_dataset("rollouts").count_rows()
    result = rollhouse("train", "replay", "first", "--store", store.uri, "--format", "json")
    assert result.exit_code == 0, result.output
    (said,) = json.loads(result.stdout)
    assert said["identical"] is True and said["compared"] == [1, 2] and said["replay"] == "first-replay-1"
    ours, theirs = rows(store, "checkpoints", "first-replay-1"), rows(store, "checkpoints", "first")
    assert [row["weights_hash"] for row in ours] == [row["weights_hash"] for row in theirs]
    assert len({row["weights_hash"] for row in ours}) == 2, "each step changed the weights"
    assert store.lance_dataset("rollouts").count_rows() == before
    run = get_run(store, "first-replay-1")
    assert run["kind"] == "replay" and run["config"]["replay_of"] == "first" and run["summary"]["identical"]
    outcomes = [{row["rollout_id"]: row["trainer_logprobs"] for row in rows(store, "training_outcomes", name)} for name in ("first", "first-replay-1")]  # fmt: skip
    assert outcomes[0] == outcomes[1] != {}


def test_a_replay_with_another_learning_rate_is_another_training_on_the_same_plans(store: LanceStore) -> None:
    result = rollhouse("train", "replay", "first", "policy.optimizer.lr=5e-5", "--run", "slower", "--store", store.uri)
    assert result.exit_code == 0, result.output
    assert "policy.optimizer.lr from 0.0001 to 5e-05" in result.stdout and "identical" not in result.stdout
    assert get_run(store, "slower")["summary"]["identical"] is None
    assert rows(store, "checkpoints", "slower")[0]["weights_hash"] != rows(store, "checkpoints", "first")[0]["weights_hash"]  # fmt: skip
    entries = [[plan["entries"] for plan in rows(store, "batch_plans", name)] for name in ("first", "slower")]
    assert entries[0] == entries[1]
    assert json.loads(rows(store, "batch_plans", "slower")[0]["settings"])["policy"]["optimizer"]["lr"] == 5e-5
    taken = rollhouse("train", "replay", "first", "--run", "slower", "--store", store.uri)
    assert taken.exit_code == 2 and "exists" in taken.stderr


def test_plans_are_made_anew_where_their_options_change(store: LanceStore) -> None:
    config = stored_config(store, "first")
    config.grpo.normalize_rewards = False
    found = replay(store, "first", config, run="centred")
    assert found.plans == "made anew" and found.identical is None
    for ours, theirs in zip(rows(store, "batch_plans", "centred"), rows(store, "batch_plans", "first"), strict=True):
        before = {entry["rollout_id"]: entry for entry in theirs["entries"]}
        assert before.keys() == {entry["rollout_id"] for entry in ours["entries"]}
        for entry in ours["entries"]:
            assert entry["kept"] == before[entry["rollout_id"]]["kept"]
            if entry["kept"]:
                assert 0 < abs(entry["advantage"]) < abs(before[entry["rollout_id"]]["advantage"])


def test_a_first_step_later_than_1_goes_on_from_the_run_s_own(store: LanceStore) -> None:
    same = rollhouse("train", "replay", "first", "--from-step", 2, "--run", "same", "--store", store.uri)
    assert same.exit_code == 0 and "1 step of first repeated as same" in same.stdout
    assert "identical bit for bit: the weights of its checkpoints (step 2)" in same.stdout
    config = stored_config(store, "first")
    config.policy.optimizer.lr = 5e-5
    other = replay(store, "first", config, from_step=2)
    assert other.checkpoint["weights_hash"] != rows(store, "checkpoints", "same")[0]["weights_hash"]
    assert [row["step"] for row in rows(store, "batch_plans", other.replay)] == [2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "policy.generation.temperature=0.5",
            "cannot change policy.generation.temperature: its rollouts were made with 1.0",
        ),
        ("grpo.num_generations_per_prompt=2", "cannot change grpo.num_generations_per_prompt"),
        ("dataset=other", "cannot change dataset"),
        ("policy.model_name=other", "cannot change policy.model_name"),
        ("policy.optimizer.rate=1", "There is no setting 'policy.optimizer.rate'"),
        (
            "policy.optimizer.lr=-1",
            "policy.optimizer.lr cannot be -1: Input should be greater than 0. Set it with --lr",
        ),
    ],
)
def test_what_a_replay_refuses(store: LanceStore, setting: str, message: str) -> None:
    result = rollhouse("train", "replay", "first", setting, "--store", store.uri)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_runs_that_cannot_be_replayed(store: LanceStore) -> None:
    for message, name, step in [
        ("kind collect", "script", 1),
        ("steps 1 to 2", "first", 3),
        ("steps 1 to 2", "first", 0),
    ]:
        with pytest.raises(ConfigError, match=message):
            replay(store, name, from_step=step)
    absent = rollhouse("train", "replay", "absent", "--store", store.uri)
    assert absent.exit_code == 2 and "absent" in absent.stderr


def test_a_difference_is_named_by_its_first_step(store: LanceStore) -> None:
    """As on another machine: step 2 gives other numbers than the run's rows hold."""
    import lance

    table = lance.dataset(store.table_uri("metrics"))
    where = "run_id = 'first' and step = 2 and name = 'train/loss'"
    (loss,) = store.read("metrics", ["value"], where)["value"].to_pylist()
    table.update({"value": str(loss + 1)}, where=where)
    try:
        result = rollhouse("train", "replay", "first", "--store", store.uri)
    finally:
        lance.dataset(store.table_uri("metrics")).update({"value": repr(loss)}, where=where)
    assert result.exit_code == 1 and "different from step 2: train/loss was" in result.stdout


@pytest.mark.system
def test_a_run_that_went_on_is_replayed_as_one(store: LanceStore, configure: Configure, engine: Any) -> None:
    """Comes after the tests of two steps: it adds a third."""
    train_grpo(store, configure(grpo__max_num_steps=3), engine=engine)
    assert get_run(store, "first")["incarnation"] == 1
    found = replay(store, "first")
    assert found.identical and found.compared == [1, 2, 3]


@pytest.mark.system
def test_two_ranks_are_replayed_by_two_ranks(store: LanceStore, configure: Configure, engine: Any) -> None:
    config = configure(run="ranks", cluster__learner_ranks=2, grpo__max_num_steps=1)
    train_grpo(store, config, engine=engine)
    found = replay(store, "ranks")
    assert found.identical and found.compared == [1]
    one = stored_config(store, "ranks")
    one.cluster.learner_ranks = 1
    assert replay(store, "ranks", one).identical is None, "another order of sums is another training"


def entries(store: LanceStore, run: str, step: int) -> list[dict[str, Any]]:
    return next(plan["entries"] for plan in rows(store, "batch_plans", run) if plan["step"] == step)


def numbers(store: LanceStore, run: str, step: int) -> dict[str, float]:
    return {
        row["name"]: row["value"]
        for row in rows(store, "metrics", run)
        if (row["step"], row["incarnation"]) == (step, 0)
    }


def test_the_first_batch_is_of_history_and_says_so(store: LanceStore) -> None:
    sampled = {row["rollout_id"]: row for row in store.read("rollouts", filter="run_id = 'sampled'").to_pylist()}
    plan = rows(store, "batch_plans", "first")[0]
    used = [sampled[entry["rollout_id"]] for entry in plan["entries"]]
    assert {row["step"] for row in store.read("rollouts", ["step"], "run_id = 'first'").to_pylist()} >= {2}
    assert store.lance_dataset("rollouts").count_rows("run_id = 'first' and step = 1") == 0, (
        "nothing was generated for it"
    )
    settings = json.loads(plan["settings"])
    assert settings["rollouts_of"] == ["sampled"] and "left_out" in settings["warm_start"]
    groups = [[row["reward"] for row in used if row["task_id"] == task] for task in settings["task_ids"]]
    assert 1 <= len(groups) <= PROMPTS and all(2 <= len(group) <= GROUP and len(set(group)) > 1 for group in groups)
    outcomes = [row for row in rows(store, "training_outcomes", "first") if row["step"] == 1]
    assert {row["rollout_id"] for row in outcomes} == {
        entry["rollout_id"] for entry in plan["entries"] if entry["kept"]
    }
    found = numbers(store, "first", 1)
    assert (
        found["warm/groups"] == len(groups) and found["warm/rollouts"] == len(used) and found["warm/log_ratio"] < 1e-3
    )
    lineage = rollhouse("lineage", "first/step_1", "--store", store.uri)
    assert "rollouts of collect run sampled" in lineage.stdout and "step 1" in lineage.stdout


def test_history_takes_each_group_once_and_only_what_the_learner_finds_likely(
    store: LanceStore, configure: Configure, tasks: list[Task], tiny_base: Path, learner: Learner, fresh_model: Path
) -> None:
    chat = ChatFormat.of(tiny_base)
    twice = configure(grpo__warm_start__num_steps=2, grpo__num_prompts_per_step=12, grpo__num_generations_per_prompt=2)
    whole = warm_batch(store, twice, "other", 1, tasks, chat, learner)
    rest = warm_batch(store, twice, "first", 2, tasks, chat, learner)
    assert whole is not None and rest is not None
    used = {entry["rollout_id"] for entry in entries(store, "first", 1)}
    assert used & {row["rollout_id"] for row in whole.rollouts} and not used & {
        row["rollout_id"] for row in rest.rollouts
    }
    groups = [[row for row in whole.rollouts if row["task_id"] == task.task_id] for task in whole.tasks]
    assert all(len(group) == 2 and group[0]["reward"] != group[1]["reward"] for group in groups)
    assert (
        whole.left_out.keys() <= {"rewards are equal", "not in the prompt set"} and whole.left_out["rewards are equal"]
    )
    hot = configure(policy__generation__temperature=0.7)
    unlike = Learner(str(fresh_model), learner_config())
    for config, judge in (
        (hot, learner),
        (configure(), unlike),
        (configure(grpo__warm_start__runs=["script"]), learner),
    ):
        assert warm_batch(store, config, "other", 1, tasks, chat, judge) is None
    assert warm_batch(store, configure(), "other", 2, tasks, chat, learner) is None, "its steps are over"


def test_a_warm_start_that_nothing_corrects_is_refused(store: LanceStore, configure: Configure) -> None:
    with pytest.raises(ConfigError, match="does not correct"):
        refuse_bad_warm_start(store, configure(loss_fn__use_importance_sampling_correction=False))
    with pytest.raises(StoreNotFound, match="absent"):
        refuse_bad_warm_start(store, configure(grpo__warm_start__runs=["absent"]))


def test_the_second_batch_is_of_the_curriculum(store: LanceStore, tasks: list[Task]) -> None:
    settings = json.loads(rows(store, "batch_plans", "first")[1]["settings"])
    pool = store.read("tasks", ["task_id"], "split = 'train'")["task_id"].to_pylist()
    allowed = set(sorted(pool)[:6]) & {task.task_id for task in tasks}
    assert len(set(settings["task_ids"])) == min(PROMPTS, len(allowed)) and set(settings["task_ids"]) <= allowed
    assert settings["curriculum"]["asked"] == 2
    found = numbers(store, "first", 2)
    assert (found["curriculum/returned"], found["curriculum/pool"], found["curriculum/empty"]) == (6, len(allowed), 0)


def test_a_curriculum_is_asked_once_and_remembered(
    store: LanceStore, configure: Configure, tasks: list[Task], tmp_path: Path
) -> None:
    query = tmp_path / "once.sql"
    query.write_text("select task_id, case when task_id < '8' then 0 else 1 end as weight from tasks")
    config = configure(grpo__curriculum__query=str(query), grpo__curriculum__every=2, grpo__num_prompts_per_step=2)
    with start_run(store, "grpo", "asking") as run:
        first = curriculum_prompts(run, config, tasks, 1)
        query.write_text("select no_such_column from tasks")
        second, again = curriculum_prompts(run, config, tasks, 2), curriculum_prompts(run, config, tasks, 1)
        assert first is not None and second is not None and again is not None
        assert (
            first.tasks == again.tasks
            and first.record["curriculum"]["asked"] == second.record["curriculum"]["asked"] == 1
        )
        assert all(task.task_id >= "8" for task in [*first.tasks, *second.tasks]) and len(first.tasks) == 2
        with pytest.raises(QueryError, match="no_such_column"):
            curriculum_prompts(run, config, tasks, 3)
        query.write_text("select task_id from tasks where false")
        empty = curriculum_prompts(run, config, tasks, 3)
        assert empty is not None and empty.metrics["curriculum/empty"] == 1
        assert empty.tasks == prompts_of_step(tasks, 3, 2, config.grpo.seed)


def test_curricula_that_are_refused(store: LanceStore, configure: Configure, tasks: list[Task], tmp_path: Path) -> None:
    for message, text in {
        "returns category": "select category from tasks",
        "returns task_id, pass_rate": "select task_id, 0.5 as pass_rate from tasks",
        "weight None": "select task_id, null as weight from tasks",
        r"parameter \$seed": "select task_id from tasks where $seed = 1",
    }.items():
        (tmp_path / "q.sql").write_text(text)
        with pytest.raises(ConfigError, match=message):
            refuse_bad_query(store, configure(grpo__curriculum__query=str(tmp_path / "q.sql")), tasks)
    (tmp_path / "q.sql").write_text("create table t as select 1")
    with pytest.raises(QueryError, match="CREATE"):
        refuse_bad_query(store, configure(grpo__curriculum__query=str(tmp_path / "q.sql")), tasks)
    for name in ("curriculum_learnabel", str(tmp_path / "absent.sql")):
        with pytest.raises(ConfigError, match=r"learnabel|cannot be read"):
            refuse_bad_query(store, configure(grpo__curriculum__query=name), tasks)
    refuse_bad_query(store, configure(grpo__curriculum__query="curriculum_learnable"), tasks)
