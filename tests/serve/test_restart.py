"""What a server leaves behind: open rollouts go on under the next one, and every finished one is there once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.serve.calls import CallFiles
from rollhouse.serve.recorder import Recorder
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run, start_run
from rollhouse.store.task import Task
from rollhouse.tests.serve.agent import kept
from rollhouse.tests.serve.running import Server, serving

ROOT = Path(__file__).resolve().parents[2]
Request = Callable[..., dict[str, Any]]


def first_call(server: Server, request: dict[str, Any], name: str) -> list[Any]:
    """One call under the name, and the messages the agent goes on with."""
    output = server.openai(f"/rollouts/{name}/v1").chat.completions.create(**request).choices[0].message
    return [
        *request["messages"],
        kept(output),
        {"role": "tool", "tool_call_id": output.tool_calls[0].id, "content": "[]"},
    ]


def test_an_open_rollout_goes_on_under_the_next_server_true_to_the_token(
    torch_policy: TokenPolicy, request_of: Request, tmp_path: Path
) -> None:
    store, engine = LanceStore.create(tmp_path / "store"), torch_policy.token_engine
    start = len(engine.seen)  # type: ignore[attr-defined]
    with serving(store, torch_policy, "agents") as server:
        messages = first_call(server, request_of(), "Ünïcode id/1".replace("/", "-"))
        assert server.rows() == []
    summary = get_run(store, "agents")["summary"]
    assert (summary["recorded"], summary["finished"], summary["open"]) == (1, 0, 1)
    with serving(store, torch_policy, "agents") as server:
        assert server.listening.open == 1
        client = server.openai("/rollouts/Ünïcode id-1/v1")
        client.chat.completions.create(**{**request_of(), "messages": messages})
        assert server.post("/rollouts/Ünïcode id-1/finish", {"reward": 1.0}).status_code == 200
    (row,) = server.rows()
    (first, gave), (second, last) = engine.seen[start:]  # type: ignore[attr-defined]
    assert first + row["token_ids"] == second + last and second[: len(first + gave)] == first + gave
    assert row["prefix_ok"] is True and row["n_turns"] == 2
    assert not (tmp_path / "store" / "_journal").exists()
    with serving(store, torch_policy, "agents") as server:
        reply = server.post("/rollouts/Ünïcode id-1/finish")
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "rollout_finished")
        assert server.post("/rollouts/Ünïcode id-1/score", {"reward": 0.5}).json()["scored"] == 1


def test_a_requested_finish_that_was_not_done_is_done_by_the_next_server(
    torch_policy: TokenPolicy, request_of: Request, tmp_path: Path
) -> None:
    store = LanceStore.create(tmp_path / "store")
    with serving(store, torch_policy, "agents") as server:
        first_call(server, request_of(), "a")
        first_call(server, request_of(), "b")
    # The state after a kill between the two: finish requested, rows not written.
    files = CallFiles(store, "agents")
    ending = {"score": None, "status": None, "stop_reason": None, "error_type": None, "error_message": None, "task": {}, "sample_index": 4, "n_tool_errors": None, "metadata": {}}  # fmt: skip
    files.add_ending("a", ending)
    with serving(store, torch_policy, "agents") as server:
        assert server.listening.open == 1
        assert server.post("/rollouts/a/finish").status_code == 409
    (row,) = server.rows()
    assert (row["sample_index"], row["status"]) == (4, "completed")
    # As a kill after the rows and before the file went: nothing is written twice.
    files.add_call("a", next(kept.calls[0] for kept in files.read()))
    with serving(store, torch_policy, "agents") as server:
        assert server.listening.open == 1
    assert len(server.rows()) == 1


def test_a_call_cut_short_by_a_kill_is_forgotten_and_the_ones_before_it_stay(
    torch_policy: TokenPolicy, request_of: Request, tmp_path: Path
) -> None:
    store = LanceStore.create(tmp_path / "store")
    with serving(store, torch_policy, "agents") as server:
        first_call(server, request_of(), "a")
        first_call(server, request_of(), "b")
    whole, cut = sorted((tmp_path / "store" / "_journal" / "agents" / "calls").iterdir())
    with open(whole, "ab") as file:
        file.write(b'{"call":{"number":1,')
    cut.write_bytes(cut.read_bytes()[:50])
    with start_run(store, "collect", "agents") as run:
        recorder = Recorder(store, run, {None: torch_policy}, "served")
        assert [len(rollout.calls) for rollout in recorder.open.values()] == [1]
    assert whole.read_bytes().endswith(b"\n") and not cut.exists()


@pytest.mark.system
def test_the_command_serves_an_agent_survives_a_kill_and_ends_in_order(
    tiny_base: Path, task: Task, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "rollhouse.cli.main", "serve", "--engine", "torch", "--model", str(tiny_base),
               "--store", str(tmp_path / "store"), "--run", "agents", "--port", "0", "--format", "json"]  # fmt: skip

    def start() -> tuple[subprocess.Popen, dict[str, Any]]:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())

    def example(url: str, name: str) -> dict[str, Any]:
        agent = [sys.executable, str(ROOT / "examples" / "agent_openai.py"), url, name]
        return json.loads(subprocess.run(agent, capture_output=True, text=True, check=True, timeout=120).stdout)

    process, ready = start()
    try:
        assert ready["base_url"] == f"{ready['url']}/v1" and ready["run_id"] == "agents"
        reported = example(ready["url"], "episode-1")
        assert [row["prefix_ok"] for row in reported["rows"]] == [True]
        body = {"messages": [message.to_openai() for message in task.messages], "max_tokens": 5}
        import httpx

        assert (
            httpx.post(f"{ready['url']}/rollouts/half/v1/chat/completions", json=body, timeout=120).status_code == 200
        )
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process, again = start()
        assert again["open"] == 1
        state = httpx.get(f"{again['url']}/rollouts/half", timeout=60).json()
        assert state == {"rollout_id": "half", "status": "open", "calls": 1, "branches": 1}
        assert httpx.post(f"{again['url']}/rollouts/episode-1/finish", json={}, timeout=60).status_code == 409
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == 0
    (summary,) = json.loads(output)
    assert (summary["run_id"], summary["open"], summary["finished"]) == ("agents", 1, 0)
    (row,) = LanceStore.open(str(tmp_path / "store")).read("rollouts").to_pylist()
    assert row["rollout_id"] == reported["rows"][0]["rollout_id"] and row["reward"] is not None
