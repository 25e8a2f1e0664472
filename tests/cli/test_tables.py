"""Tables drop no column and cut no value without a word."""

import os
import pty
import select
import subprocess
import sys

import pytest
from rollhouse.cli.common import Format, print_rows

ROW = {
    "rollout_id": "0123456789abcdef" * 2,
    "run_id": "import-20261130-174609-2594",
    "a_small_number": 2.12874e-09,
    "text": "one two three four five six " * 4,
}
MANY = {**ROW, **{f"column_{number}": number for number in range(20)}}


def printed(
    capsys: pytest.CaptureFixture[str], rows: list[dict], width: int | None, monkeypatch: pytest.MonkeyPatch
) -> str:
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
    else:
        monkeypatch.delenv("COLUMNS", raising=False)
    print_rows(rows, Format.table)
    return capsys.readouterr().out


def test_without_a_terminal_a_table_is_as_wide_as_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed(capsys, [MANY] * 2, None, monkeypatch)
    assert all(name in out for name in MANY) and out.count(ROW["text"].strip()) == 2


def test_long_texts_are_folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = printed(capsys, [ROW], 80, monkeypatch)
    assert max(map(len, out.splitlines())) <= 80
    assert "2.12874e-09" in out and "0123456789 " in out and out.count("three") == 4


def test_a_table_that_is_too_wide_becomes_records(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed(capsys, [MANY] * 2, 80, monkeypatch)
    assert out.splitlines()[0] == "── 1 of 2" and f"rollout_id      {ROW['rollout_id']}" in out
    assert all(out.count(name) == 2 for name in ("column_7", "column_19", "a_small_number"))


def test_many_rows_name_the_columns_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed(capsys, [MANY] * 30, 80, monkeypatch)
    last = out.splitlines()[-1]
    assert last.startswith("+") and last.endswith("column_18, column_19 (--format json has all)")
    shown = len(MANY) - int(last.split()[0])
    assert all(name in last for name in list(MANY)[shown:]) and max(map(len, out.splitlines()[:-1])) <= 80


def test_a_long_list_is_cut_with_its_length(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "… (500 entries)" in printed(capsys, [{"ids": list(range(500))}], 80, monkeypatch)


def test_ids_are_cut_to_unique_beginnings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ["0123456789ab" + "0" * 20, "0123456789ac" + "1" * 20, "f" * 32]
    rows = [{"rollout_id": id, "note": f"{id}."} for id in ids]
    shown = printed(capsys, rows, 80, monkeypatch).split()
    assert {"0123456789ab", "0123456789ac", "f" * 12} <= set(shown), "two share eleven characters"
    assert {f"{id}." for id in ids} <= set(shown), "what is no id stays whole"
    assert "f" * 10 in printed(capsys, rows[2:], 80, monkeypatch).split()


def test_a_terminal_is_not_overrun() -> None:
    ours, theirs = pty.openpty()
    code = "from rollhouse.cli.common import *; print_rows([{'a': 'word ' * 60}], Format.table)"
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env={**environment, "TERM": "xterm"}) as child:
        os.close(theirs)
        out = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                out += os.read(ours, 4096)
            except OSError:  # the terminal is closed
                break
        child.wait()
    os.close(ours)
    lines = out.decode().splitlines()
    assert out.count(b"word") == 60 and max(map(len, lines)) < 100
