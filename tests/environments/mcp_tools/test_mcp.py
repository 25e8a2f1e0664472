"""Tools of MCP servers: real servers over both transports, one session an episode, and servers that misbehave."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.base.event_loop import run_blocking
from rollhouse.base.worker_process import descendants
from rollhouse.cli.main import app
from rollhouse.collect.runner import collect
from rollhouse.environments.mcp_tools import McpServer, McpServerError, mcp_schemas, mcp_session
from rollhouse.environments.registry import load_environment
from rollhouse.environments.tools import ToolSession
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.types import Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run
from rollhouse.store.task import Score
from typer.testing import CliRunner

HERE = Path(__file__).parent
SHOP = McpServer(command=[sys.executable, str(HERE / "shop.py"), "stdio"], call_s=30)
ENVIRONMENT = """
import sys
import rollhouse as rh
from rollhouse.environments.mcp_tools import McpServer, mcp_schemas, mcp_session

SERVER = McpServer(command=[sys.executable, SHOP_FILE, "stdio"], tools=["sell"])


class Shop:
    name = "shop"

    def tasks(self, split):
        tools = mcp_schemas(SERVER)
        for item in ("tea", "ink"):
            prompt = (rh.Message("user", f"Sell {item}."),)
            truth = [{"name": "sell", "arguments": {"item": item}}]
            yield rh.Task(self.name, prompt, tools, ground_truth=truth, split=split)

    async def start(self, task):
        def verify(session):
            wanted = f"sold {task.ground_truth[0]['arguments']['item']}"
            solved = any(message.text == wanted for message in session.messages)
            return rh.Score(float(solved), solved, "shop", "1")

        return await mcp_session(SERVER, verify)
"""


VERIFY = "def verify(task, session):\n    return 0.5 if any('ink' in (message.text or '') and message.role == 'tool' for message in session.messages) else 0.0\n"


@pytest.mark.system
def test_a_server_named_on_the_command_line(tmp_path: Path, url: str) -> None:
    truth = [{"name": "sell", "arguments": {"item": "ink"}}]
    rows = [{"responses_create_params": {"input": [{"role": "user", "content": "Sell ink."}]}, "ground_truth": truth}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text(VERIFY)
    for number, (place, options) in enumerate(((f"{sys.executable} {HERE / 'shop.py'} stdio", []), (url, [f"environment.options.verify={tmp_path / 'judge.py'}:verify"]))):  # fmt: skip
        store = str(tmp_path / f"store{number}")
        words = ["collect", "--env", f"mcp:{place}", "--tasks", str(tmp_path / "rows.jsonl"), "--engine", "scripted", "--store", store, *options]  # fmt: skip
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        (row,) = LanceStore(store).read("rollouts").to_pylist()
        assert (row["environment"], row["n_tool_calls"], row["status"]) == ("mcp", 1, "completed")
        assert (row["reward"], row["scorer"]) == ((1.0, "mcp/ground-truth"), (0.5, "mcp/verify"))[number]
    with pytest.raises(ConfigError, match="no program"):
        load_environment("mcp:no-such-program-here --stdio")
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0] | {"ground_truth": None}) + "\n")
    with pytest.raises(ConfigError, match="nothing judges it"):
        load_environment(f"mcp:{url}", tasks=tmp_path / "rows.jsonl")


def done(_: Any) -> Score:
    return Score(1.0, True, "test", "1")


async def called(session: ToolSession, name: str, **arguments: Any) -> str:
    call = ToolCall("1", name, json.dumps(arguments))
    answers = await session.step(Turn(Message("assistant", None, (call,)), stop_reason="stop"))
    assert isinstance(answers, list)
    return answers[0].text or ""


async def closed(session: ToolSession) -> None:
    freed = session.close()
    assert freed is not None
    await freed


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a shop over HTTP."""
    command = [sys.executable, str(HERE / "shop.py"), "http"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        process.kill()


@pytest.mark.system
def test_an_environment_takes_its_tools_from_a_server(tmp_path: Path) -> None:
    file = tmp_path / "shop_environment.py"
    file.write_text(ENVIRONMENT.replace("SHOP_FILE", repr(str(HERE / "shop.py"))))
    environment = load_environment(str(file))
    tasks = list(environment.tasks("train"))
    (schema,) = tasks[0].tools
    assert schema["function"]["name"] == "sell" and "item" in schema["function"]["parameters"]["properties"]
    store = LanceStore.create(tmp_path / "store")
    with start_run(store, "collect", "r") as run:
        collect(store, run, environment, ScriptedPolicy(), tasks)
    rows = store.read("rollouts", ["status", "passed"]).to_pylist()
    assert rows == [{"status": "completed", "passed": True}] * 2, "each episode has a process of its own"


def test_answers_errors_and_the_end_of_a_server_over_pipes() -> None:
    async def play() -> None:
        session = await mcp_session(SHOP, done)
        assert await called(session, "sell", item="tea") == "sold tea"
        assert await called(session, "sell", item="ink") == "sold tea, ink", "one session an episode"
        assert (await called(session, "sell", item=[1])).startswith("Error: ")
        assert (await called(session, "refuse")).startswith("Error: ")
        assert "there is no tool 'buy'" in await called(session, "buy")
        assert session.n_tool_errors == 3
        answer = await called(session, "receipt", lines=20_000)
        assert answer.endswith(f"[{100_000 - 32_000} further characters are not shown]")
        with pytest.raises(McpServerError, match="ended the session"):
            await called(session, "burn_down")
        with pytest.raises(McpServerError, match="session"):
            await called(session, "sell", item="tea")
        await closed(session)

    run_blocking(play())


def test_a_call_that_hangs_is_a_tool_error_and_a_long_message_ends_the_session(url: str) -> None:
    server = McpServer(url=url, call_s=1.0, max_message_bytes=50_000)
    assert [schema["function"]["name"] for schema in mcp_schemas(server)] == [
        "sell",
        "receipt",
        "wait",
        "refuse",
        "burn_down",
    ]

    async def play() -> None:
        session = await mcp_session(server, done)
        assert (await called(session, "sell", item="tea")).startswith("sold tea")
        assert await called(session, "wait") == "Error: wait took longer than 1 s"
        assert (await called(session, "sell", item="pen")).startswith("sold tea, pen")
        with pytest.raises(McpServerError):
            answer = await called(session, "receipt", lines=100_000)
            assert "took longer" in answer, "the transport drops the answer"
            raise McpServerError("The answer was dropped.")
        await closed(session)

    run_blocking(play())


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("many", ConfigError, "more than 128 tools"),
        ("endless", ConfigError, "more than 100 pages"),
        ("twice", ConfigError, "two tools 'fine'"),
        ("name", ConfigError, "a name that models cannot call"),
        ("type", ConfigError, "a schema that is not valid"),
        ("array", ConfigError, "not valid|not of an object|could not be reached"),
        ("large", ConfigError, "more than 32768 bytes"),
        ("silent", McpServerError, "did not open a session within 3 s"),
        ("flood", McpServerError, "could not be reached"),
    ],
)
def test_hostile_servers_are_refused_and_leave_no_process(how: str, error: type[Exception], message: str) -> None:
    before = set(descendants(os.getpid()))
    server = McpServer(command=[sys.executable, str(HERE / "hostile.py"), how], start_s=3 if how == "silent" else 60)
    with pytest.raises((error, McpServerError), match=message):
        mcp_schemas(server)
    deadline = time.monotonic() + 30
    while set(descendants(os.getpid())) - before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_noise_between_messages_is_left_out_and_some_of_many_tools_can_be_taken() -> None:
    def server(how: str, **options: Any) -> McpServer:
        return McpServer(command=[sys.executable, str(HERE / "hostile.py"), how], **options)

    assert len(mcp_schemas(server("noise"))) == 1
    assert [tool["function"]["name"] for tool in mcp_schemas(server("many", tools=["tool_7", "tool_3"], max_tools=5000))] == ["tool_7", "tool_3"]  # fmt: skip
    with pytest.raises(ConfigError, match="has no tool 'absent'"):
        mcp_schemas(server("noise", tools=["absent"]))


def test_servers_that_cannot_be_reached_or_are_described_wrongly() -> None:
    for server, message in (
        (McpServer(command=["/nowhere/server"]), "could not be reached"),
        (McpServer(url="http://127.0.0.1:9/mcp"), "could not be reached"),
    ):
        with pytest.raises(McpServerError, match=message):
            mcp_schemas(server)
    for wrong in ({}, {"command": ["a"], "url": "http://b"}, {"url": "ftp://b"}, {"command": "a server"}, {"url": "http://u:p@b/mcp"}):  # fmt: skip
        with pytest.raises(ConfigError):
            McpServer(**wrong)  # type: ignore[arg-type]
