"""A user's environment class: the examples collect, and each mistake in the file has its sentence."""

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.cli.main import app
from rollhouse.collect.episode import Slot
from rollhouse.environments.config import environment_hash
from rollhouse.environments.registry import load_environment, tasks_of
from rollhouse.environments.user_environment import UserEnvironment
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.tests.episodes import run_episode
from typer.testing import CliRunner

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DESK = EXAMPLES / "library_desk.py"

GOOD = """
from rollhouse.environments.tools import tool_session
from rollhouse.store.task import Score, Task
from rollhouse.store.messages import Message


class Corner:
    name = "corner"

    def __init__(self, seed=0, colour="red"):
        self.colour = colour

    def tasks(self, split):
        return [Task(self.name, (Message("user", self.colour),), (), split=split)]

    def start(self, task):
        return tool_session([], lambda session: Score(1.0, True, "corner", "1"))
"""


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_the_example_collects_and_mistakes_cost_the_reward(tmp_path: Path) -> None:
    words = ["collect", "--env", str(DESK), "--engine", "scripted", "--limit", "40", "--store", str(tmp_path / "store"), "--format", "json"]  # fmt: skip
    result = CliRunner().invoke(app, [*words, "--mistake-rate", "0.5"])
    assert result.exit_code == 0, result.output
    [summary] = json.loads(result.stdout)
    assert summary["statuses"] == {"completed": 40} and 0 < summary["reward_mean"] < 1 and summary["tool_errors"] == 0
    store = LanceStore.open(tmp_path / "store")
    rows = store.read("rollouts", ["environment", "scorer", "passed", "n_tool_calls"]).to_pylist()
    assert {(row["environment"], row["scorer"]) for row in rows} == {("library-desk", "library-desk")}
    assert len({row["category"] for row in store.read("tasks", ["category"]).to_pylist()}) == 3


def test_the_page_on_environments_shows_one_that_works(tmp_path: Path) -> None:
    page = (EXAMPLES.parent / "docs" / "environments.md").read_text()
    file = write(tmp_path, page.partition("```python\n")[2].partition("```")[0], "parcels.py")
    words = ["collect", "--env", str(file), "--store", str(tmp_path / "store"), "--format", "json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    [summary] = json.loads(done.stdout)
    assert (summary["statuses"], summary["reward_mean"]) == ({"completed": 3}, 1.0)


def test_the_examples_splits_are_disjoint_and_of_a_seed() -> None:
    desk = load_environment(str(DESK), seed=3)
    ids = {split: {task.task_id for task in desk.tasks(split)} for split in ("train", "validation", "test")}
    assert [len(found) for found in ids.values()] == [200] * 3
    assert not ids["train"] & ids["validation"] and not ids["train"] & ids["test"]
    assert ids["train"] == {task.task_id for task in load_environment(str(DESK), seed=3).tasks("train")}
    assert ids["train"] != {task.task_id for task in load_environment(str(DESK), seed=4).tasks("train")}


class Halves:
    """Guesses by halving what the user's answers leave."""

    engine, policy_id, token_identity, version = "scripted", "halves", None, 0

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        low, high = 1, 32
        reported = [message.text or "" for message in conversation.messages]
        for guess, answer in zip(reported[::2], reported[1::2], strict=True):
            low, high = (int(guess) + 1, high) if answer == "higher" else (low, int(guess) - 1)
        return Turn(Message("assistant", str((low + high) // 2)))


def test_a_user_answers_turns_without_calls() -> None:
    game = load_environment(str(EXAMPLES / "guess_the_number.py"))
    for task in tasks_of(game, "test"):
        slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
        row = asyncio.run(run_episode(game, Halves(), slot, Sampling()))
        assert (row["status"], row["reward"]) == ("completed", 1.0)
        assert row["reward_components"] == [{"name": "guesses", "value": float(row["n_turns"]), "weight": 0.0}]
        assert {message["role"] for message in row["messages"][1::2]} <= {"user"}


def test_options_and_other_processes(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    own = load_environment(f"{file}:Corner", colour="blue")
    again: UserEnvironment = pickle.loads(pickle.dumps(own))
    assert [task.messages[0].text for task in again.tasks("train")] == ["blue"]
    assert again.state_hash == own.state_hash  # type: ignore[attr-defined]


def test_a_module_names_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, GOOD, "module_of_a_corner.py")
    corner = load_environment("module_of_a_corner:Corner", colour="blue")
    assert [task.messages[0].text for task in pickle.loads(pickle.dumps(corner)).tasks("train")] == ["blue"]
    assert environment_hash("module_of_a_corner:Corner") == environment_hash(str(file))
    with pytest.raises(ConfigError, match="is not a class"):
        load_environment("module_of_a_corner:tool_session")


def test_its_hash_follows_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    before = environment_hash(str(file))
    assert before == environment_hash(f"{file}:Corner") and before is not None
    write(tmp_path, GOOD + "# changed\n")
    assert environment_hash(str(file)) != before
    assert environment_hash("workplace-mini") is None and environment_hash("nemo-gym:http://127.0.0.1:1/x.py") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "has no class with the methods tasks and start"),
        (GOOD + GOOD.replace("Corner", "Other"), "has several environments: Corner, Other"),
        (GOOD.replace("def start", "def begin"), "Class Corner in .* has no method start"),
        (GOOD.replace('name = "corner"', 'label = "corner"'), "Class Corner in .* has no name"),
        (GOOD + "import not_there_at_all\n", "cannot be imported: line 18: ModuleNotFoundError"),
        (GOOD + "def broken(:\n", "cannot be imported: line 18: SyntaxError"),
        (GOOD + "raise SystemExit(2)\n", "cannot be imported: line 18: SystemExit"),
        (
            GOOD.replace("self.colour = colour", "self.colour = 1 / 0"),
            r"Corner\(\) in .* raises an error: line 11: ZeroDivisionError",
        ),
    ],
)
def test_a_file_without_a_valid_environment(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        load_environment(str(file))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("return [Task(", "return []\n        return [Task(", "yields no task"),
        ("Task(self.name", 'Task("elsewhere"', "has environment 'elsewhere' instead of 'corner'"),
        ("return [Task(", "return [1, Task(", "yields an object of type int"),
        ("split=split", 'split="training"', "Task 1 .* has split 'training'"),
        ('(Message("user", self.colour),)', "3", "Task 1 .* is invalid: messages is a int, not a list"),
        ('(Message("user", self.colour),)', "[3]", r"Task 1 .* is invalid: messages\[0\] is a int, not a message"),
        ("(), split", "(print,), split", "tools that are not schemas"),
        ("split=split", "split=split, ground_truth={1, 2}", "ground_truth that is not JSON"),
        ("split=split", "split=split, state={(1, 2): 3}", "state that is not JSON"),
        ("self.colour),)", "chr(0xD800)),)", "prompt that is not JSON"),
        ("split=split", "split=split, category=3", "category that is not a string"),
        ("split=split", 'split=split, difficulty="hard"', "the difficulty 'hard'"),
        ("return [Task(", "return [1 / 0, Task(", r"raises an error: line 14: ZeroDivisionError"),
    ],
)
def test_invalid_tasks(tmp_path: Path, before: str, after: str, message: str) -> None:
    own = load_environment(str(write(tmp_path, GOOD.replace(before, after))))
    with pytest.raises(ConfigError, match=message):
        tasks_of(own, "train")


def test_missing_files_classes_and_arguments(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        (str(tmp_path / "none.py"), {}, "environment file .*none.py cannot be read"),
        (f"{file}:Elsewhere", {}, "does not exist: .*mine.py has no 'Elsewhere'"),
        (str(file), {"shape": "round"}, "takes no argument 'shape'"),
        (str(file), {"tasks": "rows.jsonl"}, "takes no argument 'tasks'"),
    ]
    for name, options, message in wrong:
        with pytest.raises(ConfigError, match=message):
            load_environment(name, **options)


def test_a_start_that_blocks_is_a_timeout(tmp_path: Path) -> None:
    text = GOOD.replace("return tool_session", "while True: pass\n        return tool_session")
    own = load_environment(str(write(tmp_path, text)))
    [task] = tasks_of(own, "train")
    slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
    row = asyncio.run(run_episode(own, Halves(), slot, Sampling(), time_limit_s=0.2))
    assert row["status"] == "timeout"


def test_its_rollouts_are_scored_again_by_the_same_file(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    collected = ["collect", "--env", str(DESK), "--limit", "12", "--mistake-rate", "0.5", "--store", store]
    assert CliRunner().invoke(app, collected).exit_code == 0
    done = CliRunner().invoke(app, ["rescore", "--scorer", str(DESK), "--store", store, "--format", "json"])
    assert done.exit_code == 0, done.output
    place = LanceStore.open(store)
    before = {row["rollout_id"]: row["reward"] for row in place.read("rollouts", ["rollout_id", "reward"]).to_pylist()}
    after = {row["rollout_id"]: row["reward"] for row in place.read("scores", ["rollout_id", "reward"]).to_pylist()}
    assert after == before and len(after) == 12


def test_a_reward_that_is_no_number_is_an_error_row(tmp_path: Path) -> None:
    own = load_environment(str(write(tmp_path, GOOD.replace("Score(1.0", 'Score(float("nan")'))))
    [task] = tasks_of(own, "train")
    slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
    row = asyncio.run(run_episode(own, Halves(), slot, Sampling()))
    assert (row["status"], row["error_type"], row["reward"]) == ("error", "verifier", None)
    assert "the verdict of corner is not a number" in row["error_message"]
