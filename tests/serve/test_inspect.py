"""An eval of Inspect over one base URL: each sample is a rollout of its own. Its program `inspect` lives in an environment of its own, on the path."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.serve.calls import open_rollouts
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.serve.running import serving

SUMS = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser
from inspect_ai.scorer import includes
from inspect_ai.solver import solver


@solver
def twice():
    async def solve(state, generate):
        state = await generate(state)
        state.messages.append(ChatMessageUser(content="Again?"))
        return await generate(state)

    return solve


@task
def sums():
    return Task(dataset=[Sample(input=f"What is {n} + 1?", target=str(n + 1)) for n in range(6)], solver=twice(), scorer=includes())
"""


@pytest.mark.system
@pytest.mark.skipif(shutil.which("inspect") is None, reason="the program of inspect_ai is not on the path")
def test_six_samples_are_six_rollouts(tmp_path: Path, torch_policy: TokenPolicy) -> None:
    (tmp_path / "sums.py").write_text(SUMS)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OPENAI_API_KEY": "none"}  # fmt: skip
    with serving(LanceStore.create(str(tmp_path / "store")), torch_policy, id_per_conversation=True) as server:
        command = ["inspect", "eval", "sums.py", "--model", "openai/tiny", "--model-base-url", f"{server.url}/v1", "--max-tokens", "8", "--display", "plain", "--log-dir", "logs"]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        names = [kept.name for kept in open_rollouts(server.store, server.run_id, 100)]
        for name in names:
            assert server.post(f"/rollouts/{name}/finish", {"reward": 1}).status_code == 200
            assert server.post(f"/rollouts/{name}/score", {"reward": 1, "scorer": "flush"}).status_code == 200
        rows = server.rows()
    prompts = {row["prompt_id"]: row["messages"][0]["text"] for row in server.store.read("prompts").to_pylist()}
    samples = [row for row in rows if prompts[row["prompt_id"]].startswith("What is")]
    assert len(samples) == len({row["episode_id"] for row in samples}) == 6
    assert {(row["n_turns"], row["prefix_ok"]) for row in samples} == {(2, True)}
