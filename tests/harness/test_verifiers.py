"""Environments of the real verifiers package: programs that play their own episodes against the run's engine."""

import sys
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.collect.runner import collect
from rollhouse.environments.config import EnvironmentSpec
from rollhouse.environments.mixture import open_mixture
from rollhouse.environments.registry import load_environment, tasks_of
from rollhouse.harness.opening import open_harnesses
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run

MODULE = '''
import asyncio
import sys

import verifiers.v1 as vf

AGENT = """
import json, sys, urllib.request

def ask(*said):
    url, key, model, _ = sys.argv[1:]
    messages = [{"role": role, "content": text} for role, text in said]
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
    body = json.dumps({"model": model, "messages": messages}).encode()
    answer = urllib.request.urlopen(urllib.request.Request(url + "/chat/completions", body, headers))
    return json.load(answer)["choices"][0]["message"]["content"]

first = ("user", sys.argv[4])
ask(first, ("assistant", ask(first)), ("user", "Again?"))
"""


class Data(vf.TaskData):
    number: int


class AddingTask(vf.Task[Data]):
    @vf.reward(weight=0.5)
    async def spoke(self, trace: vf.Trace) -> float:
        if self.data.number == 2:
            raise ValueError("broken inside")
        return float(trace.num_turns == 2)

    @vf.reward(weight=2.0)
    async def number(self, trace: vf.Trace) -> float:
        return float(self.data.number)

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)


class Config(vf.TasksetConfig):
    first: int = 0


class Tasks(vf.Taskset[AddingTask, Config]):
    def load(self):
        for number in range(self.config.first, self.config.first + 3):
            yield AddingTask(Data(prompt=f"What is {number} + 1?", number=number, name=f"add-{number}"), self.config.task)


class Adder(vf.Harness[vf.HarnessConfig]):
    NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data, *more):
        return await runtime.run_program([sys.executable, "-S", "-c", AGENT, endpoint, secret, ctx.model, data.prompt], {})


class Pair(vf.EnvConfig):
    solver: vf.AgentConfig = vf.AgentConfig()
    critic: vf.AgentConfig = vf.AgentConfig()


class PairEnv(vf.Env[Pair]):
    async def run(self, task, agents):
        await agents.solver.run(task)
        await agents.critic.run(task)


__all__ = ["Tasks", "Adder"]
'''
PAIRED = "from adding_up import Adder, PairEnv, Tasks\n\n__all__ = ['Tasks', 'Adder', 'PairEnv']\n"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environments, as modules in the current folder."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "adding_up.py").write_text(MODULE)
    (folder / "adding_in_pairs.py").write_text(PAIRED)
    monkeypatch.chdir(folder)


def play(store: Path, policy: TokenPolicy, spec: EnvironmentSpec, tasks: int, repeats: int = 1) -> list[dict[str, Any]]:
    """The rows of rollouts of the environment's first tasks, by task, sample and agent."""
    environment, place = open_mixture([spec]), LanceStore.create(store)
    chosen, sampling = tasks_of(environment, "train", tasks), Sampling(1.0, max_tokens=8, seed=7)
    with open_harnesses(environment, policy, 6, 300) as playing, start_run(place, "collect", "run") as run:
        collect(place, run, environment, policy, chosen, num_repeats=repeats, sampling=sampling, play=playing)
    keys = {task.task_id: str(task.source_key) for task in chosen}
    rows = [{**row, "key": keys[row["task_id"]]} for row in place.read("rollouts").to_pylist()]
    return sorted(rows, key=lambda row: (row["key"], row["sample_index"], row["agent"] != "main"))


@pytest.mark.system
def test_an_environment_plays_judges_and_forms_groups(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    rows = play(tmp_path / "store", torch_policy, EnvironmentSpec(name="verifiers:adding-up"), 3, repeats=2)
    print([(r["status"], r["error_message"], r["extra"]) for r in rows])
    assert [row["key"] for row in rows] == ["add-0", "add-0", "add-1", "add-1", "add-2", "add-2"]
    assert len({row["group_id"] for row in rows}) == 3 and len({row["episode_id"] for row in rows}) == 6
    for row in rows[:4]:
        number = float(row["key"][-1])
        assert (row["environment"], row["scorer"], row["scorer_version"][:3]) == ("adding-up", "verifiers/adding-up", "0.4")  # fmt: skip
        assert (row["reward"], row["passed"]) == (0.5 + 2 * number, number == 1)
        parts = {part["name"]: (part["value"], part["weight"]) for part in row["reward_components"]}
        assert parts["spoke"] == (1.0, 0.5) and parts["number"] == (number, 2.0) and parts["turns"] == (2.0, 0.0)
        assert (row["n_turns"], row["prefix_ok"], row["trainable"]) == (2, True, True)
        assert len(row["logprobs"]) == sum(row["loss_mask"]) > 0
    for row in rows[4:]:
        assert (row["status"], row["error_type"], row["reward"]) == ("error", "harness", None)
        assert "broken inside" in row["error_message"]


@pytest.mark.system
def test_other_agents_of_an_environment_are_not_trained_on(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    """Under an interpreter of its own, as where the package does not fit into rollhouse's environment."""
    options = {"python": sys.executable, "policy": "critic"}
    rows = play(tmp_path / "store", torch_policy, EnvironmentSpec(name="verifiers:adding-in-pairs", options=options), 1)
    assert [(row["agent"], row["trainable"], row["reward"]) for row in rows] == [("main", True, 0.5), ("solver", False, 0.5)]  # fmt: skip


@pytest.mark.system
def test_splits_are_settings_of_the_taskset_and_what_cannot_be_loaded_is_refused() -> None:
    environment = load_environment("verifiers:adding-up", splits={"validation": {"first": 7}})
    assert [task.source_key for task in environment.tasks("validation")] == ["add-7", "add-8", "add-9"]
    assert list(environment.tasks("test")) == []
    with pytest.raises(ConfigError, match="cannot load 'not-there'"):
        tasks_of(load_environment("verifiers:not-there"), "train")


def test_what_it_decides_itself_is_not_set() -> None:
    with pytest.raises(ValueError, match="plays its own tasks"):
        EnvironmentSpec(name="verifiers:adding-up", harness={"name": "openai-agents"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="judges its own tasks"):
        EnvironmentSpec(name="verifiers:adding-up", harness={"reward": "environment"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes no option 'python3'"):
        load_environment("verifiers:adding-up", python3="x")
    with pytest.raises(ConfigError, match="no split 'dev'"):
        load_environment("verifiers:adding-up", splits={"dev": {}})
