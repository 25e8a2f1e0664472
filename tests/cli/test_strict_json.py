"""Printed and exported JSON has no NaN, and weights of messages come back in exports."""

import json
from pathlib import Path
from typing import Any

from rollhouse.base.json_text import to_json
from rollhouse.cli.main import app
from typer.testing import CliRunner

CHAT = {
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "bad", "weight": 0},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "good", "weight": 1},
    ],
    "reward": 1.0,
}


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def rollhouse(*arguments: str, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result


def imported(folder: Path) -> list[str]:
    """A store that holds CHAT, as the option of a command."""
    file, place = folder / "rows.jsonl", ["--store", str(folder / "store")]
    file.write_text(json.dumps(CHAT) + "\n")
    rollhouse("import", "openai-chat", str(file), *place)
    return place


def test_what_json_has_not_is_null() -> None:
    assert strict(to_json({"a": [float("nan"), 1.5, (float("-inf"),)], "b": "NaN"})) == {
        "a": [None, 1.5, [None]],
        "b": "NaN",
    }


def test_printed_rows_are_strict_json(tmp_path: Path) -> None:
    query = "select [{'name': 'm', 'value': 'nan'::float}] as parts, 'inf'::double as most"
    printed = rollhouse("sql", query, *imported(tmp_path), "--format", "json").stdout
    assert strict(printed) == [{"parts": [{"name": "m", "value": None}], "most": None}]


def test_weights_of_messages_are_exported_or_refused(tmp_path: Path) -> None:
    place = imported(tmp_path)
    rollhouse("snapshot", "create", "s", *place)
    rollhouse("dataset", "build", "sft", "d", "--from", "s", *place)
    rollhouse("dataset", "export", "d", "openai", str(tmp_path / "out.jsonl"), *place)
    messages = strict((tmp_path / "out.jsonl").read_text())["messages"]
    assert [message.get("weight") for message in messages] == [None, 0, None, None]
    refused = rollhouse("dataset", "export", "d", "trl", str(tmp_path / "no.jsonl"), *place, exit_code=1)
    assert "a message has weight 0" in refused.output
