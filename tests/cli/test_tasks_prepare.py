"""`rollhouse tasks prepare`: every bad row is named, good ones are stamped, merged and counted, and the same input gives the same bytes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.cli.main import app
from rollhouse.environments.prepare import SplitCounts, check_row, prepare_tasks
from rollhouse.tests.office import TASKS
from typer.testing import CliRunner


def row(text: str, **fields: Any) -> dict[str, Any]:
    return {"responses_create_params": {"input": text}, "agent_ref": {"name": "clerk"}, "ground_truth": [], **fields}


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def prepare(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["tasks", "prepare", *map(str, words), "--format", "json"])


def test_files_are_merged_stamped_and_counted(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", *TASKS, row("Hi", split="validation", category="talk", _ng_task_index=7))
    b = write(tmp_path / "b.jsonl", row("Bye", agent_ref={"type": "other_agents", "name": "porter"}), row("Bye"), row("Bye"))  # fmt: skip
    held = write(tmp_path / "held.jsonl", row("Hi"), row("How many?"))
    done = prepare(a, b, "--validation", held, "--agent", "office_agent", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert [(line["split"], line["rows"]) for line in json.loads(done.stdout)] == [("train", 6), ("validation", 3)]
    train, validation = read(tmp_path / "out" / "train.jsonl"), read(tmp_path / "out" / "validation.jsonl")
    assert [line["_ng_task_index"] for line in train] == [0, 1, 2, 3, 4, 4]
    assert [line["_ng_task_index"] for line in validation] == [0, 1, 2]
    assert train[0]["agent_ref"] == {"type": "responses_api_agents", "name": "office_agent"}
    assert train[3]["agent_ref"] == {"type": "other_agents", "name": "porter"}
    assert train[4]["agent_ref"] == {"type": "responses_api_agents", "name": "clerk"}
    assert {name: train[0][name] for name in TASKS[0]} == TASKS[0]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["splits"]["train"]["by_agent"] == {"clerk": 2, "office_agent": 3, "porter": 1}
    assert metrics["splits"]["train"]["by_category"] == {"": 3, "office": 3}
    assert metrics["splits"]["train"]["n_tools"] == {"min": 0, "max": 1, "mean": 0.5}
    assert metrics["splits"]["validation"]["prompt_chars"] == {"min": 2, "max": 9, "mean": 4.333}
    sha = hashlib.sha256((tmp_path / "out" / "train.jsonl").read_bytes()).hexdigest()
    assert metrics["splits"]["train"]["sha256"] == sha and metrics["prompts_of_train_in_others"] == 0


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", *(row(f"Request {i % 40}") for i in range(60)))
    for out in ("one", "two"):
        metrics = prepare_tasks([a], tmp_path / out, validation_share=0.3, dedupe=True)
    names = ("train.jsonl", "validation.jsonl", "metrics.json")
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    rows = {split: counted["rows"] for split, counted in metrics["splits"].items()}
    assert sum(rows.values()) == 40 and 5 <= rows["validation"] <= 20
    assert metrics["repeated_rows_left_out"] == 20 and metrics["prompts_of_train_in_others"] == 0


BAD: list[tuple[Any, str]] = [
    ("{", "it is not JSON"),
    ("[1]", "it is not a JSON object"),
    ('{"responses_create_params": {"input": "a"}, "agent_ref": {"name": "x"}, "weight": NaN}', "NaN is not JSON"),
    ({"responses_create_params": {"input": "a"}}, "it has no agent_ref"),
    (row("a", agent_ref={"type": "t"}), "its agent_ref has no name"),
    (row("", agent_ref={"name": "x"}), "its input is empty"),
    ({"agent_ref": {"name": "x"}}, "'responses_create_params' is missing"),
    (row("half \ud800"), "surrogates not allowed"),
    (
        {
            "responses_create_params": {"input": "a", "tools": [{"name": "f"}, {"name": "f"}, {"name": "verify"}, {}]},
            "agent_ref": {"name": 3},
        },
        "its agent_ref has no name; two tools are called f; a tool is called verify, which is an address of the resources server; tool 3 has no name",
    ),
]


def test_every_bad_row_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", row("good"), *(line for line, _ in BAD))
    b = write(tmp_path / "b.jsonl", "{torn")
    done = prepare(a, b, "--out", tmp_path / "out")
    assert done.exit_code == 2 and f"{len(BAD) + 1} rows are not tasks" in done.stderr
    for number, (_, reason) in enumerate(BAD, start=2):
        [line] = [line for line in done.stderr.splitlines() if line.startswith(f"{a}:{number}: ")]
        assert reason in line
    assert f"{b}:1: it is not JSON" in done.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_bad_rows_are_set_aside_with_an_option(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", row("good"), *(line for line, _ in BAD))
    done = prepare(a, "--out", tmp_path / "out", "--skip-bad")
    assert done.exit_code == 0, done.output
    assert len(read(tmp_path / "out" / "train.jsonl")) == 1
    problems = read(tmp_path / "out" / "problems.jsonl")
    assert [problem["line"] for problem in problems] == list(range(2, len(BAD) + 2))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["bad_rows"] == len(BAD)


def test_invalid_options(tmp_path: Path) -> None:
    a = write(tmp_path / "train.jsonl", row("good"))
    assert "overwritten by its result" in prepare(a, "--out", tmp_path).stderr
    assert "There is no file" in prepare(tmp_path / "none.jsonl", "--out", tmp_path / "out").stderr
    assert "cannot be" in prepare(a, "--out", tmp_path / "out", "--split", "dev").stderr
    assert "contain no task" in prepare(write(tmp_path / "empty.jsonl"), "--out", tmp_path / "out").stderr
    assert prepare(a, "--out", tmp_path / "out", "--split", "validation").exit_code == 0
    left = prepare(a, "--out", tmp_path / "out")
    assert left.exit_code == 2 and "validation.jsonl is there already" in left.stderr
    assert not (tmp_path / "out" / "train.jsonl").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


MESSAGES = st.lists(st.fixed_dictionaries({"role": JSON, "content": JSON}), max_size=2)
TOOLS = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": JSON}) | st.fixed_dictionaries({"name": JSON, "parameters": JSON}), max_size=2)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({"input": MESSAGES | JSON}, optional={"tools": TOOLS | JSON}), st.dictionaries(st.sampled_from(["agent_ref", "ground_truth", "verifier_metadata", "split", "category", "difficulty", "id"]), JSON))  # fmt: skip
def test_any_object_is_a_task_or_an_error_with_a_reason(params: dict[str, Any], fields: dict[str, Any]) -> None:
    """Which of the two, whatever the JSON is; a task can be counted."""
    _, task, wrong = check_row(json.dumps({"responses_create_params": params, **fields}), "clerk", "train")
    assert task is not None or wrong
    if task is not None and not wrong:
        SplitCounts().add("clerk", task)
