"""What looks wrong in rollouts is found, counted, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import pytest
import rollhouse as rh
from rollhouse.base.errors import ConfigError
from rollhouse.cli.main import app
from rollhouse.queries.suspicions import FINDINGS, failing
from typer.testing import CliRunner

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"x": {"type": "integer"}, "c": {"type": "string", "enum": ["a", "b"]}, "n": {"type": "number"}, "any": {"type": ["string", "null"]}},
            "required": ["x"],
        },
    },
}  # fmt: skip


def ask(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(arguments: str, name: str = "look", id: str = "a") -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def result(text: str = "ok", id: str = "a") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": text}


def say(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


GOOD = [
    call('{"x": 1, "c": "b", "n": 2, "any": null}'),
    result(),
    call('{"x": 2.0, "n": 0.5}', id="b"),
    result("Error: once", "b"),
    call('{"x": 3}', id="c"),
    result("ok", "c"),
    say("done"),
]
BAD: dict[str, list[dict[str, Any]]] = {
    "empty_turn": [call('{"x": 1}'), result(), say(" \n")],
    "ends_on_failed_call": [call('{"x": 1}'), result('{"error": "no"}'), say("well")],
    "repeated_turn": [say("again"), ask("go on"), say("again")],
    "runaway_length": [say("long " * 2000)],
    "unknown_tool": [call("{}", "find"), result(), say("ok")],
    "arguments_off_schema": [call('{"x": "1"}'), result(), say("ok")],
    "result_without_call": [call('{"x": 1}'), result(), result("ok", "b"), say("ok")],
    "call_without_result": [call('{"x": 1}'), say("ok")],
}


def imported(
    folder: Path,
    talks: list[list[dict[str, Any]]],
    tools: tuple[Any, ...] = (TOOL,),
    rewards: list[float] | None = None,
) -> rh.Store:
    lines = []
    for number, talk in enumerate(talks):
        line: dict[str, Any] = {"messages": [ask(f"task {number}"), *talk], "tools": tools}
        if rewards:
            line["reward"] = rewards[number]
        lines.append(json.dumps(line) + "\n")
    file = folder / "chats.jsonl"
    file.write_text("".join(lines))
    store = rh.open(folder / "store")
    store.import_("openai-chat", file)
    return store


def test_each_finding_is_found_once_and_nothing_else(tmp_path: Path) -> None:
    store = imported(tmp_path, [GOOD, *BAD.values(), GOOD])
    found = store.check(rollouts=True)
    assert {one.finding: one.rollouts for one in found} == dict.fromkeys(BAD, 1)
    assert set(BAD) < set(FINDINGS)
    assert (
        next(one.detail for one in found if one.finding == "arguments_off_schema")
        == "look: x is of type string, not integer"
    )
    assert store.check() == []


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        ("{bad", "look: the arguments are not a JSON object"),
        ("[1]", "look: the arguments are not a JSON object"),
        ("{}", "look: x is missing"),
        ('{"x": 1, "y/~z": 2}', "look: y/~z is not declared"),
        ('{"x": 1, "c": "q"}', "look: c is none of its choices"),
        ('{"x": 1.5}', "look: x is of type number, not integer"),
        ('{"x": null}', "look: x is of type null, not integer"),
    ],
)
def test_arguments_off_schema(tmp_path: Path, arguments: str, detail: str) -> None:
    found = imported(tmp_path, [[call(arguments), result(), say("ok")]]).check(rollouts=True)
    assert [(one.finding, one.detail) for one in found] == [("arguments_off_schema", detail)]


def test_findings_over_several_rollouts(tmp_path: Path) -> None:
    store = imported(tmp_path, [[say(f"{number}")] for number in range(4)], rewards=[1.0] * 4)
    assert [(one.finding, one.rollouts, one.detail) for one in store.check(rollouts=True)] == [
        ("one_reward", 4, "all 4 rewards of unknown are 1.0")
    ]
    twins = {"tools": [], "messages": [ask("same"), say("yes")]}
    file = tmp_path / "twins.jsonl"
    file.write_text("".join(json.dumps(twins | {"reward": reward}) + "\n" for reward in (0.0, 1.0, 1.0)))
    run = store.import_("openai-chat", file).run_id
    assert [(one.finding, one.rollouts) for one in store.check(rollouts=True, run=run)] == [("duplicate_trajectory", 2)]


def test_calls_without_schemas_and_broken_prefixes(tmp_path: Path) -> None:
    store = imported(tmp_path, [[call("{}"), result(), say("ok")]], tools=())
    assert [one.finding for one in store.check(rollouts=True)] == ["no_tool_schemas"]


def test_the_command_reports_and_fails_on_demand(tmp_path: Path) -> None:
    store = imported(tmp_path, [GOOD, BAD["empty_turn"]])
    place = ["--store", store.uri]

    def check(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["check", "--rollouts", *place, *arguments])

    assert check().exit_code == 0 and "empty_turn" in check().output
    assert [row["finding"] for row in json.loads(check("--format", "json").stdout)] == ["empty_turn"]
    assert check("--fail-on", "unknown_tool,empty_turn").exit_code == 1
    assert check("--fail-on", "any").exit_code == 1 and check("--fail-on", "unknown_tool").exit_code == 0
    assert "no_turns" in check("--fail-on", "emptyturn").output
    assert "There is no run" in check("--run", "absent").output
    alone = CliRunner().invoke(app, ["check", *place, "--fail-on", "any"])
    assert "need --rollouts" in alone.output


def test_import_reports_what_it_added(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": [ask("q"), say("")]}) + "\n")
    command = ["import", "openai-chat", str(file), "--store", str(tmp_path / "other")]
    assert "empty_turn" in CliRunner().invoke(app, command).output
    again = CliRunner().invoke(app, [*command, "--format", "json"])
    assert json.loads(again.stdout)[0]["suspicious"] == {}


def test_an_unknown_finding_is_refused() -> None:
    with pytest.raises(ConfigError, match="no finding 'absent'"):
        failing([], ["absent"])
