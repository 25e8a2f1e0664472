"""Replays: the same bits from the stored batches, or another training on the same rollouts."""

import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from rollhouse.collect.environments.workplace_mini import MiniEnvironment
from rollhouse.collect.policies import ScriptedPolicy
from rollhouse.collect.runner import collect
from rollhouse.store.errors import ConfigError
from rollhouse.store.house import House
from rollhouse.store.runs import get_run, start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.train.grpo.config import GrpoConfig
from rollhouse.train.grpo.loop import train_grpo
from rollhouse.train.grpo.replay import replay
from rollhouse.train.grpo.replay_settings import stored_config
from rollhouse.transform.build import build_grpo
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, engine: Any) -> House:
    """A house with the GRPO run `first`: two steps of two updates each, a checkpoint after each."""
    house = House.create(tmp_path_factory.mktemp("replay") / "house")
    environment = MiniEnvironment(n_train=12)
    with start_run(house, "collect", "script") as run:
        collect(house, run, environment, ScriptedPolicy(mistake_rate=0.5), environment.tasks("train"), num_repeats=4)
    create_snapshot(house, "s1")
    assert build_grpo(house, "prompts", "s1").n_rows >= 4
    train_grpo(house, configure(tiny_base), engine=engine)
    return house


def configure(model: Path, **changes: Any) -> GrpoConfig:
    values: dict[str, Any] = {
        "run": "first",
        "dataset": "prompts",
        "policy": {
            "model_name": str(model),
            "max_total_sequence_length": 512,
            "optimizer": {"lr": 1e-4},
            "generation": {"max_new_tokens": 48},
        },
        "grpo": {
            "num_prompts_per_step": 4,
            "num_generations_per_prompt": 6,
            "max_num_steps": 2,
            "num_updates_per_batch": 2,
        },
        "checkpointing": {"save_period": 1},
    }
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        inner = values
        for part in section.split("__") if section else ():
            inner = inner.setdefault(part, {})
        inner[name] = value
    return GrpoConfig.model_validate(values)


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(house: House, table: str, run: str) -> list[dict[str, Any]]:
    found = house.read(table, filter=f"run_id = '{run}'").to_pylist()
    return sorted(found, key=lambda row: row["step"])


def test_a_replay_makes_the_same_bits_and_says_so(house: House) -> None:
    before = house.read("rollouts").num_rows
    result = rollhouse("train", "replay", "first", "--house", house.uri, "--format", "json")
    assert result.exit_code == 0, result.output
    (said,) = json.loads(result.stdout)
    assert said["identical"] is True and said["compared"] == [1, 2] and said["replay"] == "first-replay-1"
    ours, theirs = rows(house, "checkpoints", "first-replay-1"), rows(house, "checkpoints", "first")
    assert [row["weights_hash"] for row in ours] == [row["weights_hash"] for row in theirs]
    assert len({row["weights_hash"] for row in ours}) == 2, "each step changed the weights"
    assert house.read("rollouts").num_rows == before
    run = get_run(house, "first-replay-1")
    assert run["kind"] == "replay" and run["config"]["replay_of"] == "first" and run["summary"]["identical"]
    outcomes = [{row["rollout_id"]: row["trainer_logprobs"] for row in rows(house, "training_outcomes", name)} for name in ("first", "first-replay-1")]  # fmt: skip
    assert outcomes[0] == outcomes[1] != {}
    plain = rollhouse("train", "replay", "first", "--house", house.uri)
    assert plain.exit_code == 0 and "identical, bit for bit" in plain.stdout


def test_a_replay_with_another_learning_rate_is_another_training_on_the_same_plans(house: House) -> None:
    result = rollhouse("train", "replay", "first", "policy.optimizer.lr=5e-5", "--run", "slower", "--house", house.uri)
    assert result.exit_code == 0, result.output
    assert "policy.optimizer.lr from 0.0001 to 5e-05" in result.stdout and "identical" not in result.stdout
    assert get_run(house, "slower")["summary"]["identical"] is None
    assert rows(house, "checkpoints", "slower")[0]["weights_hash"] != rows(house, "checkpoints", "first")[0]["weights_hash"]  # fmt: skip
    entries = [[plan["entries"] for plan in rows(house, "batch_plans", name)] for name in ("first", "slower")]
    assert entries[0] == entries[1]
    assert json.loads(rows(house, "batch_plans", "slower")[0]["settings"])["learner"]["lr"] == 5e-5
    taken = rollhouse("train", "replay", "first", "--run", "slower", "--house", house.uri)
    assert taken.exit_code == 2 and "already" in taken.stderr


def test_plans_are_made_anew_where_their_options_change(house: House) -> None:
    config = stored_config(house, "first")
    config.grpo.normalize_rewards = False
    found = replay(house, "first", config, run="centred")
    assert found.plans == "made anew" and found.identical is None
    for ours, theirs in zip(rows(house, "batch_plans", "centred"), rows(house, "batch_plans", "first"), strict=True):
        before = {entry["rollout_id"]: entry for entry in theirs["entries"]}
        assert before.keys() == {entry["rollout_id"] for entry in ours["entries"]}
        for entry in ours["entries"]:
            assert entry["kept"] == before[entry["rollout_id"]]["kept"]
            if entry["kept"]:
                assert 0 < abs(entry["advantage"]) < abs(before[entry["rollout_id"]]["advantage"])


def test_a_first_step_later_than_1_goes_on_from_the_run_s_own(house: House) -> None:
    same = replay(house, "first", from_step=2)
    assert same.identical and (same.first_step, same.last_step, same.compared) == (2, 2, [2])
    config = stored_config(house, "first")
    config.policy.optimizer.lr = 5e-5
    other = replay(house, "first", config, from_step=2)
    assert other.checkpoint["weights_hash"] != same.checkpoint["weights_hash"]
    assert [row["step"] for row in rows(house, "batch_plans", other.replay)] == [2]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            "policy.generation.temperature=0.5",
            "cannot change policy.generation.temperature: its rollouts were made with 1.0",
        ),
        ("grpo.num_generations_per_prompt=2", "cannot change grpo.num_generations_per_prompt"),
        ("dataset=other", "cannot change dataset"),
        ("policy.model_name=other", "cannot change policy.model_name"),
        ("policy.optimizer.rate=1", "There is no setting 'policy.optimizer.rate'"),
        ("policy.optimizer.lr=-1", "policy.optimizer.lr cannot be -1"),
    ],
)
def test_what_a_replay_refuses(house: House, setting: str, says: str) -> None:
    result = rollhouse("train", "replay", "first", setting, "--house", house.uri)
    assert result.exit_code == 2 and says in " ".join(result.stderr.split())


def test_runs_that_cannot_be_replayed(house: House) -> None:
    for says, name, step in [("kind collect", "script", 1), ("steps 1 to 2", "first", 3), ("steps 1 to 2", "first", 0)]:
        with pytest.raises(ConfigError, match=says):
            replay(house, name, from_step=step)
    absent = rollhouse("train", "replay", "absent", "--house", house.uri)
    assert absent.exit_code == 2 and "absent" in absent.stderr


def test_a_difference_is_named_by_its_first_step(house: House) -> None:
    """As on another machine: what the run's row says of step 2 is not what comes out."""
    import lance

    table = lance.dataset(house.table_uri("metrics"))
    where = "run_id = 'first' and step = 2 and name = 'train/loss'"
    (loss,) = house.read("metrics", ["value"], where)["value"].to_pylist()
    table.update({"value": str(loss + 1)}, where=where)
    try:
        result = rollhouse("train", "replay", "first", "--house", house.uri)
    finally:
        lance.dataset(house.table_uri("metrics")).update({"value": repr(loss)}, where=where)
    assert result.exit_code == 1 and "first at step 2: train/loss was" in result.stdout
