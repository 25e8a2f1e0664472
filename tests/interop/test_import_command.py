"""`rollhouse import`, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rollhouse.cli.main import app
from rollhouse.store.lance_store import LanceStore
from typer.testing import CliRunner, Result


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_importing_twice(rows: Any, tmp_path: Path) -> None:
    file, store = rows.write(tmp_path / "a.jsonl", [rows.result(), rows.result(reward=0.0)]), tmp_path / "store"
    common = ("import", "nemo-gym", file, "--env", "sums", "--store", store, "--format", "json")
    result = rollhouse(*common, "--run", "first")
    assert result.exit_code == 0, result.output
    [first] = json.loads(result.stdout)
    assert (first["run_id"], first["rows"], first["added"], first["present"], first["bad"]) == ("first", 2, 2, 0, 0)
    [again] = json.loads(rollhouse(*common).stdout)
    assert (again["added"], again["present"]) == (0, 2)
    query = "select environment, count(*) as n, avg(reward) as mean from rollouts group by 1"
    asked = rollhouse("sql", query, "--store", store, "--format", "json")
    assert json.loads(asked.stdout) == [{"environment": "sums", "n": 2, "mean": 0.5}]
    asked = rollhouse("sql", "select kind, status, name from runs where name = 'first'", "--store", store, "--format", "json")  # fmt: skip
    assert json.loads(asked.stdout) == [{"kind": "import", "status": "finished", "name": "first"}]


def test_what_it_refuses(rows: Any, tmp_path: Path) -> None:
    file = rows.write(tmp_path / "a.jsonl", [rows.result(), "{"])
    store = ("--store", str(tmp_path / "store"))
    for arguments, says in ((("csv", file), "'csv'"), (("nemo-gym", tmp_path / "none"), "There is no file")):
        result = rollhouse("import", *arguments, *store)
        assert result.exit_code == 2 and says in result.stderr
    command = [sys.executable, "-m", "rollhouse.cli.main", "import", "nemo-gym", str(file), *store]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "1 of 2 lines" in done.stderr and "Traceback" not in done.stderr
    assert LanceStore.open(tmp_path / "store").read("rollouts").num_rows == 1
    assert rollhouse("import", "nemo-gym", file, "--max-bad", 0.5, *store).exit_code == 0


def test_exporting_says_what_is_lost(rows: Any, tmp_path: Path) -> None:
    file, store = rows.write(tmp_path / "a.jsonl", [rows.result(), rows.result(reward=0.0)]), tmp_path / "store"
    assert rollhouse("import", "nemo-gym", file, "--store", store, "--run", "first").exit_code == 0
    assert rollhouse("snapshot", "create", "early", "--store", store).exit_code == 0
    rows.write(file, [rows.result(reward=0.5)])
    assert rollhouse("import", "nemo-gym", file, "--store", store).exit_code == 0
    chat, common = tmp_path / "out" / "chat.jsonl", ("--store", store, "--format", "json")
    result = rollhouse("export", "openai-chat", chat, "--run", "first", "--where", "reward > 0.2", *common)
    assert result.exit_code == 0, result.output
    [summary] = json.loads(result.stdout)
    assert summary["rollouts"] == 1 and summary["lost"]["reward"] == 1 and "extra.nemo-gym" in summary["lost"]
    [line] = [json.loads(text) for text in chat.read_text().splitlines()]
    assert [message["role"] for message in line["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    shown = rollhouse("export", "openai-chat", chat, "--store", store).stdout
    assert "not in the file" in shown and "extra.nemo-gym" in shown and "reward_components" in shown
    back = tmp_path / "back.jsonl"
    [summary] = json.loads(rollhouse("export", "nemo-gym", back, "--at", "early", *common).stdout)
    assert (summary["rollouts"], summary["lost"]) == (2, {})
    assert sorted(json.loads(text)["reward"] for text in back.read_text().splitlines()) == [0.0, 1.0]


def test_what_an_export_refuses(rows: Any, tmp_path: Path) -> None:
    file, store = rows.write(tmp_path / "a.jsonl", [rows.result()]), ("--store", tmp_path / "store")
    assert rollhouse("import", "nemo-gym", file, *store).exit_code == 0
    out = tmp_path / "o.jsonl"
    for arguments, code, says in (
        (("verifiers-v0", out), 2, "no export format 'verifiers-v0'"),
        (("openai-chat", out, "--where", "reward > 5"), 1, "No rollout is selected"),
        (("openai-chat", out, "--where", "colour = 1"), 2, "colour"),
        (("openai-chat", out, "--where", "1=1); drop table rollouts; --"), 2, ""),
        (("openai-chat", out, "--at", "never"), 2, "'never'"),
    ):
        result = rollhouse("export", *arguments, *store)
        assert result.exit_code == code and says in result.stderr, result.stderr
    assert not out.exists() and not list(tmp_path.glob(".*partial"))


OWN_FORMAT = """
import rollhouse as rh

def read(line):
    asked = {"role": "user", "content": line["question"]}
    return [rh.Rollout(messages=[asked, {"role": "assistant", "content": answer}], reward=float(answer == line["truth"])) for answer in line["answers"]]

def number(line):
    return 3
"""


def test_a_format_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_FORMAT)
    file = tmp_path / "answers.jsonl"
    file.write_text(
        "".join(
            json.dumps({"question": f"{i}+{i}?", "truth": str(2 * i), "answers": [str(2 * i), "no"]}) + "\n"
            for i in range(3)
        )
    )
    store = ("--store", str(tmp_path / "store"), "--format", "json")
    spec = f"{tmp_path}/own.py:read"
    first, again = (
        json.loads(CliRunner().invoke(app, ["import", spec, str(file), *store]).stdout)[0] for _ in range(2)
    )
    assert (first["rows"], first["added"], first["bad"]) == (3, 6, 0)
    assert (again["added"], again["present"]) == (0, 6)
    rollouts = LanceStore.open(tmp_path / "store").read("rollouts", ["reward", "group_id", "n_turns"]).to_pylist()
    assert (
        sorted(row["reward"] for row in rollouts) == [0.0] * 3 + [1.0] * 3
        and len({row["group_id"] for row in rollouts}) == 3
    )
    wrong = CliRunner().invoke(app, ["import", f"{tmp_path}/own.py:number", str(file), *store])
    assert wrong.exit_code == 2 and "3 of 3 lines" in wrong.output
    absent = CliRunner().invoke(app, ["import", f"{tmp_path}/own.py:absent", str(file), *store])
    assert absent.exit_code == 2 and "absent" in absent.output
