"""What rollouts, files and runs say reaches a terminal as text, and a spreadsheet as text."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.base.terminal import csv_text, visible, visible_json
from rollhouse.cli.main import app
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.tests.rows import prompt_row, rollout_row
from typer.testing import CliRunner

ATTACK = "\x1b]0;owned\x07\x1b[2J\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://evil.example\x1b\\meeting\x9b31m\x7f\u202egnp.exe\r\x08"
SENT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """A store in which whatever may hold text holds the attack."""
    store = LanceStore.create(tmp_path_factory.mktemp("hostile") / "store")
    with start_run(store, "collect", "r", {"note": ATTACK}) as run:
        append_rows(store, "prompts", [prompt_row(ATTACK)])
        rows = [rollout_row("r", i, messages=[Message("assistant", f"meeting {ATTACK}").to_row()], error_message=ATTACK, error_type=ATTACK, policy_id=ATTACK, status="error") for i in range(2)]  # fmt: skip
        append_rows(store, "rollouts", rows)
        create_snapshot(store, "s1", note=ATTACK)
        run.note({"said": ATTACK})
        run.finish({ATTACK: ATTACK})
    return store


COMMANDS = [
    ("sql", "select error_message, messages, policy_id from rollouts"),
    ("sql", f"select {ATTACK!r} as \"{ATTACK}\""),
    ("sql", f"select no_such_column from rollouts -- {ATTACK}"),
    ("sql", f"select '{ATTACK}' + from"),
    ("search", "meeting"),
    ("search", "meeting", "--where", f"status = '{ATTACK}' nonsense"),
    ("snapshot", "list"),
    ("snapshot", "show", "s1"),
    ("runs", "list"),
    ("runs", "show", "r"),
    ("runs", "show", ATTACK),
    ("lineage", "r"),
    ("query", "failures"),
    ("import", "openai-chat", f"{ATTACK}.jsonl"),
    ("report", "r", ATTACK),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:20])
@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_no_control_character_is_sent(hostile: LanceStore, command: tuple[str, ...], format: str) -> None:
    more = () if command[0] == "report" else ("--format", format)
    result = CliRunner().invoke(app, [*command, "--store", hostile.uri, *more])
    assert not SENT.search(result.output), repr(SENT.search(result.output))
    assert not isinstance(result.exception, Exception) or result.exit_code in (1, 2)


def test_json_keeps_its_value(hostile: LanceStore) -> None:
    result = CliRunner().invoke(app, ["sql", "select policy_id from rollouts limit 1", "--store", hostile.uri, "--format", "json"])  # fmt: skip
    assert json.loads(result.stdout) == [{"policy_id": ATTACK}]


def test_a_cell_is_no_formula(hostile: LanceStore) -> None:
    query = """select unnest(['=cmd()', '+1', '-1', '@x', chr(9) || '=1', 'a=b']) as "=head", -1.5 as number"""
    result = CliRunner().invoke(app, ["sql", query, "--store", hostile.uri, "--format", "csv"])
    head, *rows = csv.reader(io.StringIO(result.stdout))
    assert head == ["'=head", "number"]
    assert [row[0] for row in rows] == ["'=cmd()", "'+1", "'-1", "'@x", "'\t=1", "a=b"]
    assert {row[1] for row in rows} == {"-1.5"}, "a number stays a number"


def test_numbers_that_json_lacks_are_null(hostile: LanceStore) -> None:
    query = "select 'nan'::double as a, ['inf'::double] as b, {'x': '-inf'::double} as c"
    result = CliRunner().invoke(app, ["sql", query, "--store", hostile.uri, "--format", "json"])
    assert json.loads(result.stdout, parse_constant=pytest.fail) == [{"a": None, "b": [None], "c": {"x": None}}]


@given(st.text())
def test_any_text_is_shown(text: str) -> None:
    assert not SENT.search(visible(text)) and not SENT.search(csv_text(text))
    visible(text).encode()
    assert json.loads(visible_json(json.dumps(text, ensure_ascii=False))) == text


def test_other_languages_and_line_ends_stay() -> None:
    text = "Grüße, שלום, 你好 👋\n\tline"
    assert visible(text) == text and Path(visible("a/b")) == Path("a/b")
