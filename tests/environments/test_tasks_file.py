"""Rows of NeMo Gym's dataset format as tasks, and back."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.environments.tasks_file import load_tasks, row_from_task, task_from_row
from rollhouse.tests.office import TASKS

TALK = [
    {"role": "user", "content": [{"type": "input_text", "text": "Book a table"}]},
    {"type": "function_call", "call_id": "c", "name": "book", "arguments": '{"at": 7}'},
    {"type": "function_call_output", "call_id": "c", "output": "full"},
    {"role": "user", "content": "Then at eight"},
]


def test_fields_that_a_task_has_no_place_for_are_kept() -> None:
    row = {
        **TASKS[0],
        "agent_ref": {"type": "responses_api_agents", "name": "some_agent"},
        "difficulty": "hard",
        "split": "dev",
        "skills_ref": {"a": [1, None]},
    }
    task = task_from_row(row, "workplace", "validation")
    assert (task.split, task.difficulty) == ("validation", None)
    assert {name: task.extra[name] for name in ("agent_ref", "difficulty", "split", "skills_ref")} == {
        name: row[name] for name in ("agent_ref", "difficulty", "split", "skills_ref")
    }
    again = row_from_task(task)
    assert again["id"] == 0 and again["ground_truth"] == row["ground_truth"] and again["agent_ref"] == row["agent_ref"]
    assert again["responses_create_params"]["temperature"] == 1.0
    assert again["responses_create_params"]["tools"] == row["responses_create_params"]["tools"]


def test_the_truth_may_be_nested_and_the_rest_beside_it_stays() -> None:
    nested = {"ground_truth": [1], "category": "c", "tolerance": 0.5}
    task = task_from_row({"responses_create_params": {"input": "Hi"}, "verifier_metadata": nested}, "any")
    assert (task.ground_truth, task.category) == ([1], "c")
    assert task.extra["verifier_metadata"] == nested


def test_an_input_may_be_text_or_a_conversation() -> None:
    assert [m.text for m in task_from_row({"responses_create_params": {"input": "Hi"}}, "any").messages] == ["Hi"]
    task = task_from_row({"responses_create_params": {"input": TALK}}, "any")
    assert [(m.role, m.text) for m in task.messages] == [
        ("user", "Book a table"), ("assistant", None), ("tool", "full"), ("user", "Then at eight"),
    ]  # fmt: skip
    assert task.messages[1].tool_calls[0].arguments == '{"at": 7}'


@given(
    st.fixed_dictionaries(
        {"responses_create_params": st.fixed_dictionaries({"input": st.sampled_from(["Hi", TALK, TASKS[0]["responses_create_params"]["input"]])})},
        optional={
            "id": st.integers() | st.text(max_size=3),
            "ground_truth": st.lists(st.integers(), max_size=2),
            "verifier_metadata": st.just({"ground_truth": [9], "category": "n"}),
            "category": st.sampled_from(["a", "b"]) | st.none(),
            "split": st.sampled_from(["train", "test", "dev"]),
            "difficulty": st.floats(0, 1) | st.just("hard"),
            "agent_ref": st.just({"name": "x"}),
            "expected_answer": st.text(max_size=3),
        },
    )
)  # fmt: skip
def test_a_task_written_as_a_row_reads_as_itself(row: dict[str, Any]) -> None:
    task = task_from_row(row, "any", "validation")
    again = task_from_row(json.loads(json.dumps(row_from_task(task))), "any")
    assert (again.task_id, again.category, again.difficulty, again.source_key) == (
        task.task_id, task.category, task.difficulty, task.source_key,
    )  # fmt: skip
    assert again.split == task.split


def test_the_real_file_reads_back(conformance_tasks: Path) -> None:
    for task, line in zip(load_tasks(conformance_tasks, "workplace"), conformance_tasks.open(), strict=True):
        row = json.loads(line)
        again = row_from_task(task)
        assert {name: again[name] for name in row if name != "responses_create_params"} == {
            name: value for name, value in row.items() if name != "responses_create_params"
        }
        assert again["responses_create_params"]["tools"] == row["responses_create_params"]["tools"]


@pytest.fixture
def conformance_tasks() -> Path:
    import os

    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    file = Path(os.environ.get("ROLLHOUSE_CONFORMANCE_DATA") or beside) / "workplace" / "tasks.jsonl"
    if not file.is_file():
        pytest.skip(f"no conformance data at {file}; set ROLLHOUSE_CONFORMANCE_DATA")
    return file
