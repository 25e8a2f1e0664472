"""Rows of other people's data sets as tasks, from files and from a hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollhouse.base.errors import ConfigError, FormatError
from rollhouse.environments.math import MathEnvironment
from rollhouse.environments.math.files import read_tasks
from rollhouse.environments.math.rows import INSTRUCTION, last_boxed
from rollhouse.environments.task_files import tasks_sha256
from rollhouse.environments.tasks_file import row_from_task
from rollhouse.store.task import Task
from rollhouse.tests.policies.hub_server import COMMIT, Hub, serve_hub

DAPO = {
    "data_source": "math_dapo",
    "prompt": [{"role": "user", "content": "What is 6 times 7? End with Answer: $Answer"}],
    "ability": "MATH",
    "reward_model": {"ground_truth": "42", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b6eb4"},
}
GSM8K = {
    "question": "Ann has 1,000 and 234 more. How many?",
    "answer": "1000 + 234 = <<1000+234=1234>>1234\n#### 1,234",
}
MATH = {
    "problem": "Halve one.",
    "level": "Level 4",
    "type": "Algebra",
    "solution": r"First \boxed{3}, no: $\boxed{\frac{1}{2}}$.",
}
MATH_500 = {**MATH, "answer": r"\frac12", "subject": "Algebra", "level": 2, "unique_id": "test/algebra/1.json"}
NEMO = {
    "id": 7,
    "responses_create_params": {"input": [{"role": "user", "content": "6 * 7?"}], "temperature": 1.0},
    "question": "6 * 7?",
    "expected_answer": "42",
    "agent_ref": {"type": "responses_api_agents", "name": "math_with_judge_simple_agent"},
}
PLAIN = {"problem": "6 * 7?", "answer": 42, "split": "validation", "difficulty": 0.5, "note": "kept"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tasks_in(path: Path | str, split: str = "train", **options: Any) -> list[Task]:
    return list(MathEnvironment(path, **options).tasks(split))


def only(tmp_path: Path, row: dict[str, Any], split: str = "train") -> Task:
    (task,) = tasks_in(write(tmp_path / "rows.jsonl", row), split)
    return task


def test_dapo_keeps_its_own_prompt(tmp_path: Path) -> None:
    task = only(tmp_path, DAPO)
    assert [message.text for message in task.messages] == [DAPO["prompt"][0]["content"]]
    assert (task.ground_truth, task.category, task.source_key) == ("42", "math_dapo", "9a9b6eb4")
    assert task.extra == {"ability": "MATH", "extra_info": {"index": "9a9b6eb4"}}


def test_gsm8k(tmp_path: Path) -> None:
    task = only(tmp_path, GSM8K)
    assert [message.text for message in task.messages] == [INSTRUCTION, GSM8K["question"]]
    assert task.ground_truth == "1234"
    assert task.extra["answer"] == GSM8K["answer"]


def test_math_takes_the_last_box_and_the_level(tmp_path: Path) -> None:
    task = only(tmp_path, MATH)
    assert (task.ground_truth, task.difficulty, task.category) == (r"\frac{1}{2}", 4.0, "Algebra")
    assert task.extra["level"] == "Level 4"
    task = only(tmp_path, MATH_500)
    assert (task.ground_truth, task.difficulty, task.source_key) == (r"\frac12", 2.0, "test/algebra/1.json")
    assert task.extra["type"] == "Algebra"


def test_nemo_gym_and_back(tmp_path: Path) -> None:
    task = only(tmp_path, NEMO)
    assert (task.ground_truth, task.source_key, len(task.messages)) == ("42", "7", 1)
    assert task.extra["agent_ref"] == NEMO["agent_ref"]
    again = only(tmp_path, row_from_task(task))
    assert (again.task_id, again.source_key, again.split) == (task.task_id, "7", "train")
    nested = {"responses_create_params": NEMO["responses_create_params"], "verifier_metadata": {"expected_answer": 42}}
    assert only(tmp_path, nested).task_id == task.task_id


def test_plain_rows_name_their_split(tmp_path: Path) -> None:
    assert tasks_in(write(tmp_path / "rows.jsonl", PLAIN)) == []
    task = only(tmp_path, PLAIN, "validation")
    assert (task.ground_truth, task.difficulty, task.extra) == ("42", 0.5, {"note": "kept"})


def test_the_system_prompt_is_a_setting_and_so_is_the_split_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", GSM8K)
    (task,) = tasks_in(file, "test", tasks_split="test", system_prompt="")
    assert [message.role for message in task.messages] == ["user"]
    (task,) = tasks_in(file, "test", tasks_split="test", system_prompt="Be brief.")
    assert task.messages[0].text == "Be brief."


def test_parquet_is_the_same_and_repeated_rows_are_one_task(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([DAPO] * 1100 + [{**DAPO, "reward_model": {"ground_truth": "43", "style": ""}}]), file)  # fmt: skip
    assert [task.ground_truth for task in tasks_in(file)] == ["42", "43"]
    assert tasks_in(file)[0] == only(tmp_path, DAPO)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"question": "?", "answer": "no mark"}, "Line 3 of .*no '####'"),
        ({"question": "?"}, "Line 3 of .*'answer' is missing"),
        ({"question": None, "answer": "#### 1"}, "Line 3 of .*the question is None"),
        ({"question": "?", "answer": "#### "}, "Line 3 of .*the answer is ''"),
        ([1], "Line 3 of .*not a JSON object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: Any, said: str) -> None:
    file = write(tmp_path / "rows.jsonl", GSM8K, {**GSM8K, "question": "Again?"}, bad)
    with pytest.raises(FormatError, match=said):
        tasks_in(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"question": "?", "answer"', "Line 1 of .* is not JSON"),
        (b'{"question": "\\ud800", "answer": "1"}', "Line 1 of .* is not JSON"),
        (b'{"text": "?"}', "Line 1 of .*no known shape"),
        (b'{"problem": "?", "solution": "\\\\boxed{1"}', "not closed"),
        (b'{"problem": "?", "solution": "so 1"}', "no .boxed"),
    ],
)
def test_a_bad_first_row_too(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(FormatError, match=said):
        tasks_in(tmp_path / "rows.jsonl")


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no tasks file"):
        tasks_in(tmp_path / "none.jsonl")
    (tmp_path / "rows.csv").write_text("question,answer\n")
    with pytest.raises(ConfigError, match="neither"):
        tasks_in(tmp_path / "rows.csv")
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(FormatError, match="Parquet"):
        tasks_in(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("text", "answer"),
    [(r"\boxed{a{b}c} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"is $\boxed 7$.", "7"), (r"\fbox{9}", "9")],
)
def test_the_last_box(text: str, answer: str) -> None:
    assert last_boxed(text) == answer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    row = json.dumps(GSM8K).encode() + b"\n"
    other = json.dumps({**GSM8K, "question": "And now?"}).encode() + b"\n"
    two = {"main/train-00000-of-00002.jsonl": row, "main/train-00001-of-00002.jsonl": other, "main/test.jsonl": row}
    repos = {"datasets/us/two": {**two, "socratic/test.jsonl": other}, "datasets/us/one": {"data/rows.jsonl": row}}
    with serve_hub(Hub(repos)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        yield hub


def test_tasks_of_the_hub_by_name_revision_and_part(hub: Hub) -> None:
    assert len(tasks_in("hf:us/two:main/train")) == 2
    assert len(tasks_in(f"hf:us/two@{COMMIT}:main", "test")) == 1
    # A file that its name calls a test set is never of another split.
    assert tasks_in("hf:us/two:main/test", "train") == []
    assert len(tasks_in("hf:us/one", "validation", tasks_split="validation")) == 1
    assert tasks_sha256("hf:us/two:train") != tasks_sha256("hf:us/two:main/test")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:us/two:test", "several data sets.*main/test.*socratic/test"),
        ("hf:us/one:test", "no such files.*data/rows"),
        ("hf:nothing", "names no data set"),
        ("hf:us/none", "no dataset 'us/none'"),
    ],
)
def test_names_that_are_none(hub: Hub, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tasks_in(name)


def test_a_row_names_its_split_in_the_words_of_data_sets(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"{name}?", "answer": "1", "split": name} for name in ("train", "dev", "test", "weird", 3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = list(read_tasks(file, "test"))
    assert [task.split for task in tasks] == ["train", "validation", "test", "test", "test"]
    assert [task.extra.get("split") for task in tasks] == [None, None, None, "weird", 3]
