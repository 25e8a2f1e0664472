"""A user's engine by its plug-in name: a policy that answers in messages, or a token engine under a model's chat format."""

import json
from pathlib import Path

import pytest
from rollhouse.base.config import content_hashes
from rollhouse.base.errors import ConfigError
from rollhouse.cli.main import app
from rollhouse.policies.config import PolicySettings
from rollhouse.policies.models import weights_hash
from rollhouse.policies.opening import check_engine, model_hash, open_policy
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.store.lance_store import LanceStore
from typer.testing import CliRunner

ENGINES = '''
from rollhouse.policies.engines.base import SampledTokens
from rollhouse.policies.types import Turn, VersionSpan
from rollhouse.store.messages import Message


class Parrot:
    """A policy: repeats the last message."""

    engine, policy_id, token_identity, version = "parrot", "parrot-1", None, 0

    def __init__(self, seed):
        self.seed = seed

    async def respond(self, conversation, sampling):
        return Turn(Message("assistant", f"{self.seed}"))


class Constant:
    """A token engine: the same token and the end of the turn."""

    kind, version, max_model_len = "constant", 0, 512
    closed = 0

    def __init__(self, model, stop_ids):
        self.stop = stop_ids[0]

    async def generate(self, prompt_ids, sampling):
        return SampledTokens([65, self.stop], [-0.5, -0.5], (VersionSpan(0, 0),), "stop")

    def close(self):
        Constant.closed += 1


class Nameless:
    async def respond(self, conversation, sampling): ...


x = 1
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "engines.py"
    file.write_text(ENGINES)
    return file


def policy_of(engine: str, model: Path | None = None) -> PolicySettings:
    return PolicySettings(engine=engine, model_name=None if model is None else str(model))


def test_a_policy_of_a_file_collects(file: Path, tmp_path: Path) -> None:
    words = ["collect", "--env", "workplace-mini", "--engine", f"{file}:Parrot", "--seed", "7", "--limit", "2"]
    done = CliRunner().invoke(app, [*words, "--store", str(tmp_path / "store"), "--format", "json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["statuses"] == {"completed": 2}
    rows = LanceStore.open(tmp_path / "store").read("rollouts", ["engine", "policy_id", "messages"]).to_pylist()
    assert {(row["engine"], row["policy_id"], row["messages"][0]["text"]) for row in rows} == {("parrot", "parrot-1", "7")}  # fmt: skip


def test_a_token_engine_of_a_file_collects_tokens(file: Path, tmp_path: Path, random_models: tuple[Path, Path]) -> None:
    spec = f"{file}:Constant"
    assert model_hash(policy_of(spec, random_models[0])) == weights_hash(random_models[0])
    assert content_hashes(policy_of(spec, random_models[0])).keys() == {"engine"}
    words = ["collect", "--env", "math", "--engine", spec, "--model", str(random_models[0]), "--limit", "1"]
    done = CliRunner().invoke(app, [*words, "--store", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    [row] = LanceStore.open(tmp_path / "store").read("rollouts", ["engine", "token_ids", "policy_id"]).to_pylist()
    assert row["engine"] == "constant" and row["token_ids"][0] == 65
    assert row["policy_id"] == weights_hash(random_models[0])
    with open_policy(policy_of(spec, random_models[0])) as policy:
        assert isinstance(policy, TokenPolicy)
        engine = type(policy.token_engine)
    assert engine.closed == 2  # type: ignore[attr-defined]


def test_engines_that_are_none(file: Path) -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        check_engine(policy_of(f"{file}:Constant"))
    with pytest.raises(ConfigError, match="not a class with a method generate or respond"):
        check_engine(policy_of(f"{file}:x"))
    with pytest.raises(ConfigError, match="has no 'Nix'"):
        check_engine(policy_of(f"{file}:Nix"))
    with pytest.raises(ConfigError, match="no attribute 'engine'"), open_policy(policy_of(f"{file}:Nameless")):
        pass
    with pytest.raises(ConfigError, match="no engine 'openai:json'"):
        check_engine(policy_of("openai:json"))
