"""The tasks of python-sandbox: solutions solve them, what is broken does not, cheating does not help, and files of one's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError, FormatError
from rollhouse.base.event_loop import run_blocking
from rollhouse.collect.runner import collect
from rollhouse.environments.python_sandbox import SandboxEnvironment
from rollhouse.environments.python_sandbox.box import require_isolation
from rollhouse.environments.registry import load_environment
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.policies.types import Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run
from rollhouse.store.task import Score, Task


@pytest.fixture(scope="module")
def environment() -> SandboxEnvironment:
    try:
        require_isolation()
    except ConfigError as error:
        pytest.skip(error.message)
    return SandboxEnvironment(n_train=60)


def played(environment: SandboxEnvironment, task: Task, *calls: tuple[str, dict[str, Any]]) -> tuple[list[str], Score]:
    """The tools' answers and the verdict."""

    async def play() -> tuple[list[str], Score]:
        session = await environment.start(task)
        try:
            made = tuple(ToolCall(str(i), name, json.dumps(arguments)) for i, (name, arguments) in enumerate(calls))
            answers = await session.step(Turn(Message("assistant", None, made), stop_reason="stop"))
            assert isinstance(answers, list)
            score = session.verify()
            return [answer.text or "" for answer in answers], score if isinstance(score, Score) else await score
        finally:
            freed = session.close()
            if freed is not None:
                await freed

    return run_blocking(play())


def test_the_scripted_engine_solves_every_kind_and_its_mistakes_solve_none(environment: SandboxEnvironment, tmp_path: Path) -> None:  # fmt: skip
    store = LanceStore.create(tmp_path / "store")
    tasks = list(environment.tasks("train"))[:5]
    for name, rate in (("right", 0.0), ("wrong", 1.0)):
        with start_run(store, "collect", name) as run:
            collect(store, run, environment, ScriptedPolicy(rate), tasks, concurrency=2)
    rows = store.read("rollouts", ["run_id", "passed", "status", "reward_components"]).to_pylist()
    assert [row["status"] for row in rows] == ["completed"] * 10
    assert all(row["passed"] == (row["run_id"] == "right") for row in rows)
    assert all(row["reward_components"][0]["name"] == "tests_passed" for row in rows)


def test_tasks_are_the_same_for_a_seed_and_splits_share_none(environment: SandboxEnvironment) -> None:
    def contents(seed: int, split: str) -> list[str]:
        made = SandboxEnvironment(seed=seed, n_train=60, n_validation=20).tasks(split)
        return [str(task.ground_truth) for task in made]

    train = contents(0, "train")
    assert len(set(train)) == 60 and train == contents(0, "train") != contents(1, "train")
    assert not set(train) & set(contents(0, "validation") + contents(1, "validation"))
    with pytest.raises(ConfigError, match="no split 'dev'"):
        environment.tasks("dev")


def test_what_is_to_be_fixed_fails_a_test_and_no_answer_is_in_the_prompt(environment: SandboxEnvironment) -> None:
    for task in environment.tasks("train"):
        (test,) = task.state["tests"]
        if "function" not in test:
            assert not any(given in (task.messages[1].text or "") for given in test["inputs"][1:] if given)
            continue
        names: dict[str, Any] = {}
        exec(task.state["files"][test["path"]], names)  # a text of the generator
        found = []
        for given in test["inputs"]:
            found.append(names[test["function"]](*given))
        assert found != test["expected"], task.messages[1].text


def test_tests_are_not_in_the_sandbox_and_cannot_be_passed_without_the_answer(environment: SandboxEnvironment) -> None:
    task = next(task for task in environment.tasks("train") if task.category == "fix_scaled")
    (test,) = task.state["tests"]
    answers, score = played(environment, task, ("run_shell", {"command": f"grep -rl {test['function']} -D skip --exclude-dir=proc --exclude-dir=usr --exclude-dir=dev /work /tmp /opt /etc 2>/dev/null"}))  # fmt: skip
    assert [Path(line).name for line in answers[0].splitlines() if line.startswith("/")] == [test["path"]]
    assert not score.passed and 0 <= score.components[0][1] < 1
    cheats = [
        "import os\nos._exit(0)",
        f"def {test['function']}(values):\n    return type('All', (list,), {{'__eq__': lambda *_: True}})()",
        "import sys, os\nfor line in sys.stdin: os.write(3, b'true\\n')",
        "raise SystemExit(0)",
        "while True: pass",
    ]
    quick = SandboxEnvironment(limits={"seconds": 1.0})
    for cheat in cheats:
        _, score = played(quick, task, ("write_file", {"path": test["path"], "content": cheat}))
        assert not score.passed, cheat


def test_results_of_tools_are_text_for_the_policy(environment: SandboxEnvironment) -> None:
    small = SandboxEnvironment(limits={"seconds": 1.0, "output_bytes": 40})
    task = next(iter(environment.tasks("train")))
    answers, _ = played(
        small,
        task,
        ("run_python", {"code": "print('a' * 100)"}),
        ("run_shell", {"command": "exit 3"}),
        ("run_shell", {"command": "sleep 9"}),
        ("run_shell", {"command": "true"}),
        ("read_file", {"path": "absent.txt"}),
        ("write_file", {"path": "new/note.txt", "content": "é"}),
        ("list_files", {"path": "new"}),
        ("run_python", {"code": 1}),
    )
    assert answers[0] == "a" * 40 + "\n[61 further bytes of output are not shown]"
    assert answers[1:4] == ["[exit status 3]", "[stopped after 1 s]", "(no output)"]
    assert answers[4].startswith("Error: FileNotFoundError") and answers[5] == "2 bytes written to new/note.txt"
    assert answers[6] == "note.txt" and answers[7].startswith("Error: invalid arguments")


def test_tasks_of_a_file(environment: SandboxEnvironment, tmp_path: Path) -> None:
    row = {
        "request": "Write double.py, which prints twice the number on its input.",
        "files": {"README": "numbers"},
        "tests": [{"command": ["python", "double.py"], "inputs": ["4\n"], "expected": ["8\n"]}],
        "solution": [{"name": "write_file", "arguments": {"path": "double.py", "content": "print(2 * int(input()))"}}],
    }
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps(row) + "\n")
    own = load_environment("python-sandbox", tasks=file)
    assert isinstance(own, SandboxEnvironment)
    (task,) = own.tasks("train")
    solution = task.ground_truth[0]
    assert played(own, task, (solution["name"], solution["arguments"]))[1].passed
    for change, message in (
        ({"tests": []}, "tests"),
        ({"tests": [{"function": "f", "inputs": [[1]], "expected": [1]}]}, "function and path"),
        ({"tests": [{"command": ["sh"], "inputs": ["a", "b"], "expected": ["a"]}]}, "2 inputs and 1 expected"),
        ({"split": "dev"}, "no split 'dev'"),
    ):
        file.write_text(json.dumps(row | change) + "\n")
        with pytest.raises((FormatError, ConfigError), match=message):
            list(own.tasks("train"))
    with pytest.raises(ConfigError, match=r"limits.*seconds"):
        load_environment("python-sandbox", limits={"seconds": "long"})
