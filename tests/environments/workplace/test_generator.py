"""Generated tasks and tables: solvable with the tools alone, the same everywhere, and splits that share nothing."""

import asyncio
import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.cli.main import app
from rollhouse.environments.tasks_file import task_from_row
from rollhouse.environments.types import Done
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace.generator.draw import OfficeDraw
from rollhouse.environments.workplace.generator.tables import generate_tables
from rollhouse.environments.workplace.generator.tasks import HELD_OUT, KINDS, MOST_CALLS, generate_tasks
from rollhouse.environments.workplace.office import Office, read_office
from rollhouse.environments.workplace.schemas import tool_schemas
from rollhouse.environments.workplace.toolbox import TOOLS
from rollhouse.policies.types import Turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.tests.environments.workplace.test_environment import verdict
from typer.testing import CliRunner

Row = dict[str, Any]
NAMES = ("emails.csv", "calendar_events.csv", "project_tasks.csv", "customer_relationship_manager_data.csv", "analytics_data.csv", "email_addresses.csv")  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    generate_tables(folder)
    return folder


@pytest.fixture(scope="module")
def ours(made: Path) -> WorkplaceEnvironment:
    return WorkplaceEnvironment(made)


@pytest.fixture(scope="module")
def rows(ours: WorkplaceEnvironment) -> list[Row]:
    return list(generate_tasks(ours.office, 1200))


def request_of(row: Row) -> str:
    return row["responses_create_params"]["input"][1]["content"]


async def played(environment: WorkplaceEnvironment, row: Row, check: bool) -> tuple[float, float]:
    """The reward of doing nothing and of doing the row's solution, one call a turn; `check` that nothing is known before it was shown."""
    session = environment.start(task_from_row(row, "workplace"))
    idle, shown = verdict(session).reward, request_of(row).lower()
    for number, entry in enumerate(row["solution"]):
        arguments = json.loads(entry["arguments"])
        secret = [value.lower() for name, value in arguments.items() if name.endswith("_id") or "@" in str(value)]
        assert not check or all(value in shown for value in secret), (row["kind"], entry, shown)
        call = ToolCall(str(number), entry["name"], entry["arguments"])
        answer = await session.step(Turn(Message("assistant", tool_calls=(call,))))
        assert not isinstance(answer, Done)
        shown += (answer[0].text or "").lower()
    assert session.n_tool_errors == 0
    solved = verdict(session).reward
    session.close()
    return idle, solved


def check_rows(environment: WorkplaceEnvironment, rows: list[Row]) -> None:
    async def check() -> None:
        for row in rows:
            idle, solved = await played(environment, row, check=True)
            assert solved == 1.0, row["kind"]
            assert idle == float(not row["ground_truth"]), row["kind"]

    asyncio.run(check())


def test_every_task_is_solved_by_its_solution_and_by_nothing_less(ours: WorkplaceEnvironment, rows: list[Row]) -> None:
    check_rows(ours, rows)
    assert {row["kind"] for row in rows} == set(KINDS) and len(KINDS) >= 80
    assert all(len(row["solution"]) <= MOST_CALLS and 0 < row["difficulty"] <= 1 for row in rows)
    empty = sum(not row["ground_truth"] for row in rows) / len(rows)
    assert 0.03 < empty < 0.25
    conditional = Counter(row["kind"] for row in rows if not row["ground_truth"])
    assert len(conditional) >= 20 and len({row["difficulty"] for row in rows}) >= 5


def test_real_tables_give_solvable_tasks_too(conformance: Path) -> None:
    real = WorkplaceEnvironment(conformance / "tables")
    rows = list(generate_tasks(real.office, 600, seed=9))
    check_rows(real, rows)
    assert len({row["kind"] for row in rows}) > 70


def test_small_tables_give_tasks_of_most_kinds(tmp_path: Path) -> None:
    generate_tables(tmp_path, seed=5, size=0.1)
    small = WorkplaceEnvironment(tmp_path)
    rows = list(generate_tasks(small.office, 300))
    check_rows(small, rows)
    assert len({row["kind"] for row in rows}) > 60


def test_tables_without_enough_in_them_say_so(environment: WorkplaceEnvironment) -> None:
    with pytest.raises(ConfigError, match="different tasks, not 50"):
        list(generate_tasks(environment.office, 50, kinds=["calendar/delete_next_with"]))


def test_the_same_bytes_everywhere(made: Path, rows: list[Row]) -> None:
    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()[:16]

    files = {name: digest((made / name).read_bytes()) for name in NAMES}
    assert digest(json.dumps(files).encode()) == "0c8dfa9824982f59"
    assert digest(json.dumps(rows[:400]).encode()) == "b34628e8987d8f91"
    assert [OfficeDraw("a").below(1000), OfficeDraw("b").pick("xyz"), OfficeDraw("c").sample("abcdef", 3)] == DRAWN


DRAWN = [272, "z", ["c", "a", "b"]]


def test_another_seed_gives_other_tasks_and_a_longer_list_begins_alike(ours: WorkplaceEnvironment, rows: list[Row]) -> None:  # fmt: skip
    assert list(generate_tasks(ours.office, 150)) == rows[:150]
    other = list(generate_tasks(ours.office, 150, seed=1))
    assert len({request_of(row) for row in other} & {request_of(row) for row in rows}) < 15


def test_splits_share_no_task_whatever_the_seeds(ours: WorkplaceEnvironment, rows: list[Row]) -> None:
    everything = rows + [row for seed in range(1, 5) for row in generate_tasks(ours.office, 600, seed)]
    by_prompt, by_content = defaultdict(set), defaultdict(set)
    for row in everything:
        by_prompt[request_of(row).lower()].add(row["split"])
        by_content[row["kind"], json.dumps(row["solution"])].add(row["split"])
    assert all(len(splits) == 1 for splits in [*by_prompt.values(), *by_content.values()])
    shares = Counter(row["split"] for row in rows)
    assert shares["train"] > 0.7 * len(rows) and min(shares["validation"], shares["test"]) > 0.06 * len(rows)
    assert len({request_of(row) for row in rows}) == len(rows) == len({row["id"] for row in rows})


def test_kinds_and_phrasings_are_held_out(ours: WorkplaceEnvironment, rows: list[Row]) -> None:
    assert {row["split"] for row in rows if row["kind"] in HELD_OUT} == {"test"}
    kinds = ["email/send", *HELD_OUT]
    kept = list(generate_tasks(ours.office, 300, kinds=kinds, splits=["train"]))
    assert {row["kind"] for row in kept} == {"email/send"}
    assert not any("should get a mail titled" in request_of(row) for row in kept)
    shared = list(generate_tasks(ours.office, 300, kinds=kinds, splits=["train"], hold_out=False))
    assert {row["kind"] for row in shared} == set(kinds)
    assert any("should get a mail titled" in request_of(row) for row in shared)


def test_every_kind_is_said_in_several_ways(rows: list[Row]) -> None:
    openings = defaultdict(set)
    for row in rows:
        openings[row["kind"]].add(" ".join(request_of(row).split()[:2]))
    assert all(len(reported) >= 2 for reported in openings.values())


def test_unknown_names_are_refused(ours: WorkplaceEnvironment) -> None:
    with pytest.raises(ConfigError, match="email/sing"):
        next(generate_tasks(ours.office, 1, kinds=["email/sing"]))
    with pytest.raises(ConfigError, match="dev"):
        next(generate_tasks(ours.office, 1, splits=["dev"]))


def test_rows_are_of_the_dataset_format(rows: list[Row]) -> None:
    row = rows[0]
    task = task_from_row(json.loads(json.dumps(row)), "workplace")
    assert (task.split, task.category, task.difficulty) == (row["split"], row["category"], row["difficulty"])
    assert task.extra["kind"] == row["kind"] and task.extra["agent_ref"]["type"] == "responses_api_agents"
    assert [message.role for message in task.messages] == ["system", "user"]
    assert {row["environment_name"] for row in rows} == {"workplace_assistant"}
    assert len({row["category"] for row in rows}) == 6


def test_schemas_are_of_the_tools() -> None:
    schemas = {schema["name"]: schema["parameters"] for schema in tool_schemas()}
    assert list(schemas) == [schema["name"] for schema in tool_schemas()] and set(schemas) == set(TOOLS)
    for name, parameters in schemas.items():
        assert set(parameters["properties"]) == TOOLS[name].parameters
        assert set(parameters["required"]) <= TOOLS[name].parameters
        assert all(len(parameter["description"]) > 4 for parameter in parameters["properties"].values())


def test_schemas_have_the_parameters_of_the_workplace_assistant(conformance: Path) -> None:
    with (conformance / "tasks.jsonl").open() as file:
        theirs = json.loads(next(file))["responses_create_params"]["tools"]
    ours = {schema["name"]: schema["parameters"] for schema in tool_schemas()}
    for tool in theirs:
        parameters, mine = tool["parameters"], ours[tool["name"]]
        assert mine["required"] == parameters["required"]
        kinds = {name: parameter["type"] for name, parameter in parameters["properties"].items()}
        assert {name: parameter["type"] for name, parameter in mine["properties"].items()} == kinds


def read(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("seed", "size"), [(0, 1.0), (1, 0.02), (2, 3.0)])
def test_tables_are_coherent(tmp_path: Path, seed: int, size: float) -> None:
    counts = generate_tables(tmp_path, seed, size)
    office: Office = read_office(tmp_path)
    people = set(office.directory.cells("email_address"))
    assert counts["emails.csv"] == max(5, round(500 * size)) == len(office.emails.rows)
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+@lumenhall\.com", person) for person in people)
    assert len(people) == counts["email_addresses.csv"] >= 4
    for table, id_column, owner in (
        (office.emails, "email_id", "sender/recipient"),
        (office.events, "event_id", "participant_email"),
        (office.tasks, "task_id", "assigned_to_email"),
        (office.customers, "customer_id", "assigned_to_email"),
    ):
        assert sorted(table.cells(id_column)) == [f"{number:08}" for number in range(len(table.rows))]
        assert set(table.cells(owner)) <= people
    assert set(office.tasks.cells("assigned_to_email")) == people
    assert set(office.emails.cells("inbox/outbox")) == {"inbox"}
    sent = office.emails.cells("sent_datetime")
    assert sent == sorted(sent) and len(set(sent)) == len(sent) and sent[-1] < "2023-11-30 23:59:00"
    starts = [datetime.fromisoformat(start) for start in office.events.cells("event_start")]
    assert starts == sorted(starts) and all(start.weekday() < 5 and 9 <= start.hour < 18 for start in starts)
    customers = read(tmp_path, "customer_relationship_manager_data.csv")
    assert all(customer["follow_up_by"].endswith(" 23:59:00") and "." not in customer["customer_email"].partition("@")[2] for customer in customers)  # fmt: skip
    assert {type(engaged) for engaged in office.visits.cells("user_engaged")} == {bool}


def test_a_size_has_to_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size 0"):
        generate_tables(tmp_path, size=0)


def test_without_a_tasks_file_the_environment_makes_tasks(made: Path) -> None:
    environment = WorkplaceEnvironment(made, n_train=30, n_validation=5, n_test=5, seed=4)
    tasks = {split: list(environment.tasks(split)) for split in ("train", "validation", "test")}
    assert {split: len(of_split) for split, of_split in tasks.items()} == {"train": 30, "validation": 5, "test": 5}  # fmt: skip
    assert all(task.split == split for split, of_split in tasks.items() for task in of_split)
    assert tasks["train"][0].tools is tasks["train"][29].tools
    assert len({task.source_key for of_split in tasks.values() for task in of_split}) == 40


def first(tasks: Iterator[Any]) -> list[Any]:
    return list(islice(tasks, 3))


def test_tasks_are_made_as_they_are_asked_for(made: Path) -> None:
    endless = WorkplaceEnvironment(made, n_train=10**9)
    assert len(first(endless.tasks("train"))) == 3


def rollhouse(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def test_the_commands_make_tables_and_tasks_that_collect_takes(tmp_path: Path) -> None:
    tables, file, store = tmp_path / "tables", tmp_path / "tasks.jsonl", tmp_path / "store"
    made = json.loads(rollhouse("tasks", "tables", tables, "--size", 0.3, "--seed", 2, "--format", "json").stdout)
    assert {row["file"] for row in made} == set(NAMES)
    rollhouse("tasks", "generate", "--env", "workplace", "--tables", tables, "--count", 12, "--seed", 7, "--output", file)  # fmt: skip
    splits = Counter(json.loads(line)["split"] for line in file.open())
    assert splits == {"train": 12, "validation": 12}
    options = ("--env", "workplace", "--tables", tables, "--tasks", file, "--engine", "scripted", "--store", store)
    rollhouse("collect", *options)
    [row] = json.loads(rollhouse("sql", "select count(*) as n, avg(reward) as mean from rollouts", "--store", store, "--format", "json").stdout)  # fmt: skip
    assert row == {"n": 12, "mean": 1.0}
