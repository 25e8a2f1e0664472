"""Claude Code and Codex, their real binaries, headless and unchanged against a server with a scripted engine: one correct row each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.serve.npm_agents import claude_binary, codex_binary, run_agent
from rollhouse.tests.serve.running import Server, serving
from rollhouse.tests.serve.scripted import call, scripted_policy

pytestmark = pytest.mark.system
ASKED = "What is the word in note.txt?"
CODEX = """
model = "policy"
model_provider = "served"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.served]
name = "served"
base_url = "URL"
wire_api = "responses"
env_key = "SERVED_KEY"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the note."""
    made = tmp_path / "work"
    made.mkdir()
    (made / "note.txt").write_text("the word is heron\n")
    (tmp_path / "home" / ".codex").mkdir(parents=True)
    return made


def check_row(tmp_path: Path, read: str, play: Callable[[Server], str]) -> dict[str, Any]:
    """The one row of an agent that reads the note with a call of the text `read`, and answers."""
    prompts: list[str] = []

    def turn(prompt: str) -> str:
        prompts.append(prompt)
        return "The word is heron." if "<tool_response>" in prompt.rsplit("<|im_start|>user", 1)[-1] else read

    with serving(LanceStore.create(tmp_path / "store"), scripted_policy(turn)) as server:
        assert "The word is heron." in play(server)
        finished = server.post("/rollouts/agent/finish", {"reward": 1}).json()
        assert [(row["n_turns"], row["prefix_ok"]) for row in finished["rows"]] == [(2, True)]
        assert server.post("/rollouts/agent/score", {"reward": 1, "scorer": "flush"}).status_code == 200
        (row,) = server.rows()
        (prompt,) = server.store.read("prompts", filter=f"prompt_id = '{row['prompt_id']}'").to_pylist()
        (tokens,) = server.store.read("prompt_tokens", filter=f"prompt_id = '{row['prompt_id']}'").to_pylist()
        policy: Any = server.policy
        text = policy.chat.text_of(tokens["token_ids"] + row["token_ids"])
    # What is stored is what the engine was given and sampled, in the last call and in every call before it.
    assert text == prompts[-1] + "The word is heron.<|im_end|>" and prompts[-1].startswith(prompts[0] + read)
    assert [message["role"] for message in row["messages"]] == ["assistant", "tool", "assistant"]
    assert "the word is heron" in row["messages"][1]["text"] and row["messages"][2]["text"] == "The word is heron."
    assert row["n_sampled_tokens"] == len(row["logprobs"]) == sum(row["loss_mask"])
    assert (row["trainable"], row["reward"], row["status"]) == (True, 1.0, "completed")
    assert all(gap.startswith(("ignored:", "dropped_tool:")) for gap in row["gaps"]), row["gaps"]
    assert any(ASKED in (message["text"] or "") for message in prompt["messages"])
    return row


def test_claude_code_is_one_row(tmp_path: Path, folder: Path) -> None:
    command = [claude_binary(), "-p", ASKED, "--model", "policy", "--output-format", "json", "--allowedTools", "Bash"]

    def play(server: Server) -> str:
        variables = {"ANTHROPIC_BASE_URL": f"{server.url}/rollouts/agent", "ANTHROPIC_API_KEY": "none"}
        off = ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER", "DISABLE_ERROR_REPORTING")  # fmt: skip
        return json.loads(run_agent(command, folder, tmp_path / "home", variables | dict.fromkeys(off, "1")))["result"]

    row = check_row(tmp_path, call("Bash", command="cat note.txt", description="Reads"), play)
    assert row["messages"][0]["tool_calls"][0]["name"] == "Bash"


def test_codex_is_one_row(tmp_path: Path, folder: Path) -> None:
    command = [codex_binary(), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json", ASKED]  # fmt: skip

    def play(server: Server) -> str:
        home = tmp_path / "home" / ".codex"
        (home / "config.toml").write_text(CODEX.replace("URL", f"{server.url}/rollouts/agent/v1"))
        return run_agent(command, folder, tmp_path / "home", {"CODEX_HOME": str(home), "SERVED_KEY": "none"})

    row = check_row(tmp_path, call("exec_command", cmd="cat note.txt"), play)
    assert "dropped_tool:web_search" in row["gaps"]
