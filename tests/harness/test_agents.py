"""Harnesses that ship, with the real packages that the suite has; the others say how to install theirs."""

import json
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, MissingExtra
from rollhouse.base.packages import require
from rollhouse.environments.harness import SHIPPED, HarnessSettings
from rollhouse.harness.program import load_harness
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling

from .test_playing import play

PACKAGES = {
    "openai-agents": "agents",
    "langgraph": "langgraph",
    "pydantic-ai": "pydantic_ai",
    "smolagents": "smolagents",
    "mini-swe-agent": "minisweagent",
    "nemo-gym": "aiohttp",
    "verifiers": "verifiers",
}


@pytest.mark.system
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_the_agents_sdk_plays_with_the_environments_tools(tmp_path: Path, torch_policy: TokenPolicy, api: str) -> None:
    sampling = Sampling(1.0, max_tokens=64, seed=3)
    harness = {"name": "openai-agents", "options": {"api": api}}
    rows = play(tmp_path / "store", torch_policy, harness, repeats=3, limit_s=300, sampling=sampling)
    for row in rows:
        assert row["status"] in ("completed", "truncated") and row["prefix_ok"] and row["trainable"], row
        assert row["scorer"] == "workplace-mini/final-state" and row["harness"]["name"] == "openai-agents"
    assert any(row["harness"].get("tool_calls") for row in rows)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_harness_loads_or_names_its_package(name: str) -> None:
    assert PACKAGES.keys() == SHIPPED.keys()
    try:
        require(PACKAGES[name])
    except MissingExtra:
        with pytest.raises(MissingExtra, match="pip install"):
            load_harness(name)
    else:
        if name == "openai-agents":  # others take seconds to import
            assert load_harness(name).__name__ == "run"


def test_settings_that_do_not_fit_are_refused() -> None:
    for wrong in (
        {"name": "no-such-agent"},
        {"name": "a:b", "command": ["c"]},
        {"command": ["c"], "runs_in": "thread"},
        {"command": ["c"], "runs_in": "container"},
        {"name": "a:b", "image": "i"},
        {"name": "a:b", "reward": "exit"},
    ):
        with pytest.raises(ValueError):
            HarnessSettings.model_validate(wrong)
    assert HarnessSettings.model_validate("openai-agents").label == "openai-agents"
    assert not HarnessSettings().chosen and json.loads(HarnessSettings().model_dump_json())["name"] is None


def test_a_harness_that_is_not_there_is_refused_before_the_run(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        play(tmp_path / "store", torch_policy, {"name": f"{Path(__file__).with_name('agents.py')}:nothing"})
    with pytest.raises(ConfigError, match="no-such-program"):
        play(tmp_path / "other", torch_policy, {"command": ["no-such-program"]})
