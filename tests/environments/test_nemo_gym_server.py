"""The adapter against a real HTTP server with upstream's rules: the same outputs and verdicts as in process, and failures as rows."""

import asyncio
import json
import math
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.cli.main import app
from rollhouse.collect.episode import Slot
from rollhouse.environments.registry import load_environment, tasks_of
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task
from rollhouse.tests.episodes import run_episode
from rollhouse.tests.gym_server import GymServer, serving
from rollhouse.tests.office import TASKS, write_tables
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**task, "agent_ref": {"name": "office_agent"}}) + "\n" for task in TASKS))
    return file


@pytest.fixture
def server(tables: Path) -> Iterator[GymServer]:
    with serving(tables) as running:
        yield running


class Plays:
    """Says these turns, whatever comes back."""

    engine, policy_id, token_identity, version = "scripted", "plays", None, 0

    def __init__(self, *calls: tuple[str, str]) -> None:
        self.calls = calls

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        reported = len([message for message in conversation.messages if message.role == "assistant"])
        if reported >= len(self.calls):
            return Turn(Message("assistant", "Done."))
        return Turn(Message("assistant", None, (ToolCall(f"c{reported}", *self.calls[reported]),)))


async def play(environment: Any, policy: Any, task: Task, **limits: float) -> dict[str, Any]:
    slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
    return await run_episode(environment, policy, slot, Sampling(), **limits)  # type: ignore[arg-type]


DELETE = ("email_delete_email", '{"email_id": "00000000"}')
SCRIPTS = [
    (),
    (DELETE,),
    (("email_delete_email", '{"email_id": "00000001"}'),),
    (("email_delete_email", "{broken"), ("email_delete_email", "null"), ("email_delete_email", "[1]"), DELETE),
    (("nowhere", "{}"), ("no/where?", "{}"), ("email_search_emails", '{"query": "harbour", "page": null}'), DELETE),
    (("email_search_emails", '{"query": "ä \\u00e9"}'), ("calendar_search_events", '{"query": "("}')),
    (
        (
            "calendar_update_event",
            '{"event_id": "00000002", "field": "event_start", "new_value": "2023-12-05 11:00:00"}',
        ),
    ),
]


def test_outputs_and_verdicts_are_those_in_process(server: GymServer, rows: Path, tables: Path) -> None:
    remote, here = load_environment(f"nemo-gym:{server.url}", tasks=rows), WorkplaceEnvironment(tables, rows)
    assert remote.name == "office_agent"
    pairs = list(zip(tasks_of(remote, "train"), here.tasks("train"), strict=True))

    async def both() -> None:
        for script in SCRIPTS:
            for far, near in pairs:
                there, at_home = await play(remote, Plays(*script), far), await play(here, Plays(*script), near)
                names = ("status", "stop_reason", "reward", "passed", "messages", "n_tool_errors", "error_message")
                assert {name: there[name] for name in names} == {name: at_home[name] for name in names}
                assert there["reward_components"] == [{"name": "n_calls", "value": float(len(script)), "weight": 0.0}]

    asyncio.run(both())
    assert len(server.sessions) == len(SCRIPTS) * len(TASKS)


def test_verdicts_on_real_tasks_agree() -> None:
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("ROLLHOUSE_CONFORMANCE_DATA") or beside) / "workplace"
    if not folder.is_dir():
        pytest.skip(f"no conformance data at {folder}; set ROLLHOUSE_CONFORMANCE_DATA")
    with serving(folder / "tables") as server:
        remote = load_environment(f"nemo-gym:{server.url}", tasks=folder / "tasks.jsonl", name="workplace")
        here = WorkplaceEnvironment(folder / "tables", folder / "tasks.jsonl")
        pairs = list(islice(zip(remote.tasks("train"), here.tasks("train"), strict=True), 0, None, 12))
        policy = ScriptedPolicy(mistake_rate=0.4)

        async def both() -> list[tuple[Any, Any]]:
            far = await asyncio.gather(*(play(remote, policy, task) for task, _ in pairs))
            near = [await play(here, policy, task) for _, task in pairs]
            return [
                ((a["reward"], a["messages"]), (b["reward"], b["messages"])) for a, b in zip(far, near, strict=True)
            ]

        answers = asyncio.run(both())
    assert all(there == at_home for there, at_home in answers)
    assert {there[0] for there, _ in answers} == {0.0, 1.0} and len(answers) > 20


def test_it_collects_from_the_command_line(server: GymServer, rows: Path, tmp_path: Path) -> None:
    words = ["collect", "--env", f"nemo-gym:{server.url}", "--tasks", str(rows), "--num-repeats", "30"]
    done = CliRunner().invoke(app, [*words, "--store", str(tmp_path / "store"), "--format", "json"])
    assert done.exit_code == 0, done.output
    [summary] = json.loads(done.stdout)
    assert (summary["statuses"], summary["reward_mean"]) == ({"completed": 90}, 1.0)
    stored = LanceStore.open(tmp_path / "store").read("rollouts", ["environment", "scorer"]).to_pylist()
    assert {(row["environment"], row["scorer"]) for row in stored} == {("office_agent", "nemo-gym/office_agent")}


def test_two_event_loops_play_at_once(server: GymServer, rows: Path) -> None:
    remote = load_environment(f"nemo-gym:{server.url}", tasks=rows)
    task = tasks_of(remote, "train")[0]
    other: list[dict[str, Any]] = []

    class AsksTheOther(Plays):
        """While its session is open, another is played to its end on a thread of its own."""

        async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
            if not other:
                other.append(await asyncio.to_thread(lambda: asyncio.run(play(remote, Plays(DELETE), task))))
            return await super().respond(conversation, sampling)

    row = asyncio.run(play(remote, AsksTheOther(DELETE), task))
    assert [(one["status"], one["reward"]) for one in (row, *other)] == [("completed", 1.0)] * 2, (row, other)


def test_a_busy_server_is_asked_again(server: GymServer, rows: Path) -> None:
    remote = load_environment(f"nemo-gym:{server.url}", tasks=rows)
    server.broken = {"seed_session": [503], "email_delete_email": [429], "verify": [503]}
    row = asyncio.run(play(remote, Plays(DELETE), tasks_of(remote, "train")[0]))
    assert (row["status"], row["reward"], row["n_tool_errors"]) == ("completed", 1.0, 0)


@pytest.mark.parametrize(
    ("address", "boundary"),
    [("seed_session", "environment"), ("email_delete_email", "environment"), ("verify", "verifier")],
)
def test_a_server_that_fails_costs_one_row(server: GymServer, rows: Path, address: str, boundary: str) -> None:
    remote = load_environment(f"nemo-gym:{server.url}", tasks=rows)
    server.broken = {address: [500]}
    first, second = tasks_of(remote, "train")[:2]
    row = asyncio.run(play(remote, Plays(DELETE), first))
    assert (row["status"], row["error_type"], row["reward"]) == ("error", boundary, None)
    assert f"/{address} returned 500" in row["error_message"]
    assert asyncio.run(play(remote, Plays(), second))["reward"] == 1.0


@pytest.mark.parametrize("reward", [math.nan, None, True, "1"])
def test_a_verdict_without_a_reward_is_an_error(server: GymServer, rows: Path, reward: Any) -> None:
    remote = load_environment(f"nemo-gym:{server.url}", tasks=rows)
    server.verdict = {"reward": reward}
    row = asyncio.run(play(remote, Plays(), tasks_of(remote, "train")[0]))
    assert (row["status"], row["error_type"]) == ("error", "verifier") and "returned no reward" in row["error_message"]


def test_components_come_from_named_parts_and_other_numbers(server: GymServer, rows: Path) -> None:
    remote = load_environment(f"nemo-gym:{server.url}", tasks=rows, pass_at=0.4)
    server.verdict = {"reward": 0.5, "accuracy": 0.25, "note": "fine", "reward_components": {"style": {"value": 1, "weight": 0.5}}}  # fmt: skip
    row = asyncio.run(play(remote, Plays(), tasks_of(remote, "train")[0]))
    parts = {part["name"]: (part["value"], part["weight"]) for part in row["reward_components"]}
    assert parts == {"accuracy": (0.25, 0.0), "style": (1.0, 0.5), "n_calls": (0.0, 0.0)}
    assert (row["reward"], row["passed"]) == (0.5, True)


def test_a_tool_that_hangs_costs_one_tool_error(server: GymServer, rows: Path) -> None:
    remote = load_environment(f"nemo-gym:{server.url}", tasks=rows)
    server.slow = {"email_search_emails": 20}
    row = asyncio.run(play(remote, Plays(("email_search_emails", "{}"), DELETE), tasks_of(remote, "train")[0], tool_limit_s=0.3))  # fmt: skip
    assert (row["reward"], row["n_tool_errors"]) == (1.0, 1)


def test_nobody_there_and_no_address(rows: Path) -> None:
    remote = load_environment("nemo-gym:http://127.0.0.1:9", tasks=rows, retries=1)
    row = asyncio.run(play(remote, Plays(), tasks_of(remote, "train")[0]))
    assert (row["status"], row["error_type"]) == ("error", "environment") and "Cannot reach" in row["error_message"]
    with pytest.raises(ConfigError, match="not the URL of a server"):
        load_environment("nemo-gym:localhost")
    with pytest.raises(ConfigError, match="has no tasks file"):
        tasks_of(load_environment("nemo-gym:http://127.0.0.1:9"), "train")


def test_answers_in_fields_of_the_verifiers_own_tell_tasks_apart(tmp_path: Path) -> None:
    file = tmp_path / "math.jsonl"
    base = {"responses_create_params": {"input": "1 + 1?"}, "question": "1 + 1?"}
    file.write_text("".join(json.dumps({**base, "expected_answer": answer}) + "\n" for answer in ("2", "3")))
    first, second = tasks_of(load_environment("nemo-gym:http://127.0.0.1:9", tasks=file), "train")
    assert first.task_id != second.task_id and first.environment == "nemo-gym"


@pytest.mark.parametrize(("ref", "name"), [("simple", "simple"), (["simple"], "nemo-gym"), ({"name": [1]}, "nemo-gym")])
def test_an_agent_is_named_in_full_or_shortly(tmp_path: Path, ref: Any, name: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"responses_create_params": {"input": "1 + 1?"}, "agent_ref": ref}))
    assert load_environment("nemo-gym:http://127.0.0.1:9", tasks=file).name == name
