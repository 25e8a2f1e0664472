"""Task folders of Harbor: played in a sandbox or a container, judged by their own tests."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError, FormatError
from rollhouse.cli.main import app
from rollhouse.environments.harbor.folder import read_harbor_task
from rollhouse.environments.python_sandbox.box import require_isolation
from rollhouse.environments.registry import load_environment
from rollhouse.policies.types import Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Score
from rollhouse.tests.containers import container_image
from typer.testing import CliRunner

TEST = """#!/bin/bash
echo judging
r=0; [ "$(cat /app/sum.txt)" = "3$UNIT" ] && r=1
echo "{\\"reward\\": $r, \\"style\\": 0.25}" > /logs/verifier/reward.json
echo "{\\"results\\": {\\"summary\\": {\\"passed\\": $r, \\"failed\\": $((1-r))}}}" > /logs/verifier/ctrf.json
exit 1
"""


def write_task(folder: Path, toml: str = "", **files: str) -> Path:
    """A task folder; `files` by path, with `__` for `/` and `_DOT_` for `.`."""
    told = {
        "task.toml": f'version = "1.0"\n[metadata]\ncategory = "sums"\n{toml}',
        "instruction.md": "<!-- canary 1 -->\n\nWrite the sum of numbers.txt to /app/sum.txt.\n",
        "environment/Dockerfile": "# two\nFROM debian:12\nWORKDIR /app\nENV UNIT=cm\nCOPY numbers.txt \\\n  .\n",
        "environment/numbers.txt": "1\n2\n",
        "tests/test.sh": TEST,
        "solution/solve.sh": '#!/bin/bash\n. /solution/unit.sh\necho "3$unit" > /app/sum.txt\n',
        "solution/unit.sh": "unit=$UNIT\n",
    }
    for name, text in {**told, **{name.replace("__", "/").replace("_DOT_", "."): text for name, text in files.items()}}.items():  # fmt: skip
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.fixture
def isolated() -> None:
    try:
        require_isolation()
    except ConfigError as error:
        pytest.skip(error.message)


def played(environment: Any, *commands: str) -> tuple[Score, str]:
    """The verdict after these commands, and the output of the last one."""

    async def play() -> tuple[Score, str]:
        (task,) = environment.tasks("train")
        session, said = await environment.start(task), ""
        try:
            for at, command in enumerate(commands):
                call = ToolCall(f"c{at}", "bash", json.dumps({"command": command}))
                said = (await session.step(Turn(Message("assistant", None, (call,)))))[0].text
            return await session.verify(), said
        finally:
            await session.close()

    return asyncio.run(play())


def test_a_solution_is_judged_by_the_tasks_tests(isolated: None, tmp_path: Path) -> None:
    environment = load_environment(f"harbor:{write_task(tmp_path / 'sum')}", sandbox="local")
    (task,) = environment.tasks("train")
    assert task.messages[0].text == "Write the sum of numbers.txt to /app/sum.txt.\n" and task.category == "sums"
    solved, _ = played(environment, task.ground_truth[0]["arguments"]["command"])
    assert (solved.reward, solved.passed, solved.scorer) == (1.0, True, "harbor/tests")
    parts = {name: (value, weight) for name, value, weight in solved.components}
    assert parts == {"reward": (1.0, 1.0), "style": (0.25, 0.0), "tests_passed": (1.0, 0.0), "tests_failed": (0.0, 0.0)}
    named = load_environment(f"harbor:{tmp_path}", sandbox="local", reward_key="style", pass_at=0.2)
    assert (played(named)[0].reward, played(named)[0].passed) == (0.25, True)


def test_a_policy_cannot_write_its_own_verdict(isolated: None, tmp_path: Path) -> None:
    environment = load_environment(f"harbor:{write_task(tmp_path / 'sum')}", sandbox="local")
    verdict, said = played(
        environment,
        "echo '{\"reward\": 1}' > /logs/verifier/reward.json; echo 1 > /logs/verifier/reward.txt",
        "printf '#!/bin/bash\\necho 1 > /logs/verifier/reward.txt' > /tests/test.sh; chmod +x /tests/test.sh",
        "(while :; do echo 1 > /logs/verifier/reward.txt; rm -f /logs/verifier/reward.json; done) & ls -A /tests /solution; pwd",
    )
    assert (verdict.reward, verdict.passed) == (0.0, False)
    assert said.split() == ["/solution:", "/tests:", "test.sh", "/app"]


def test_rollouts_from_the_command_line(isolated: None, tmp_path: Path) -> None:
    for name, unit in (("one", "cm"), ("two", "mm")):
        write_task(tmp_path / "tasks" / name, environment__Dockerfile=f"FROM x\nWORKDIR /app\nENV UNIT={unit}\nCOPY numbers.txt .\n")  # fmt: skip
    words = ["collect", "--env", f"harbor:{tmp_path / 'tasks'}", "--engine", "scripted", "--store", str(tmp_path / "store"), "environment.options.sandbox=local"]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    rows = LanceStore(str(tmp_path / "store")).read("rollouts").to_pylist()
    assert [(row["environment"], row["reward"], row["n_tool_calls"]) for row in rows] == [("harbor", 1.0, 1)] * 2
    assert len({row["group_id"] for row in rows}) == 2


@pytest.mark.system
def test_tests_without_a_reward_are_an_error(isolated: None, tmp_path: Path) -> None:
    for script, reason in (
        ("echo no pytest here; exit 1", "neither reward.json nor reward.txt: no pytest here"),
        ("echo good > /logs/verifier/reward.txt", "no number"),
        ("echo '{\"reward\": NaN}' > /logs/verifier/reward.json", "no finite number"),
        ("echo '{\"score\": 1}' > /logs/verifier/reward.json", "no reward 'reward', but score"),
    ):
        folder = write_task(tmp_path / "sum", tests__test_DOT_sh=f"#!/bin/bash\n{script}\n")
        with pytest.raises(Exception, match=reason):
            played(load_environment(f"harbor:{folder}", sandbox="local"))
    folder = write_task(tmp_path / "sum", tests__test_DOT_sh="#!/bin/bash\necho 0.5 > /logs/verifier/reward.txt\n")
    assert played(load_environment(f"harbor:{folder}", sandbox="local"))[0].reward == 0.5


def test_what_cannot_run_is_refused_in_a_sentence(isolated: None, tmp_path: Path) -> None:
    folder = write_task(tmp_path / "image", '[environment]\ndocker_image = "python:3.13"\n')
    with pytest.raises(ConfigError, match=r"image needs the image python:3\.13, and so a container"):
        load_environment(f"harbor:{folder}", sandbox="local")
    folder = write_task(tmp_path / "run", environment__Dockerfile="FROM debian\nRUN apt-get update && \\\n apt-get install x\n")  # fmt: skip
    with pytest.raises(ConfigError, match="needs an image for `RUN apt-get update"):
        load_environment(f"harbor:{folder}", sandbox="local")
    for toml, what in (("[[steps]]\nname = 'a'\n", "several steps"), ("[environment]\ngpus = 1\n", "a GPU"), ('[verifier]\nenvironment_mode = "separate"\n', "another container")):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            read_harbor_task(write_task(tmp_path / "other", toml))
    with pytest.raises(ConfigError, match="no task folder"):
        load_environment(f"harbor:{tmp_path / 'nothing'}")
    (write_task(tmp_path / "other") / "tests" / "test.sh").unlink()
    with pytest.raises(FormatError, match=r"tests/test\.sh"):
        read_harbor_task(tmp_path / "other")


@pytest.mark.system
def test_a_task_in_a_container_of_its_image(tmp_path: Path) -> None:
    image = container_image()
    folder = write_task(tmp_path / "sum", environment__Dockerfile=f"FROM {image}\nWORKDIR /app\nENV UNIT=cm\nCOPY numbers.txt .\n")  # fmt: skip
    environment = load_environment(f"harbor:{folder}", sandbox="container", seconds=5)
    solved, said = played(environment, "cat numbers.txt; pwd; id -u; echo 3$UNIT > /app/sum.txt")
    assert solved.reward == 1.0 and said.split() == ["1", "2", "/app", "0"]
    verdict, said = played(environment, "echo 1 > /logs/verifier/reward.txt; sleep 60")
    assert verdict.reward == 0.0 and "stopped after 5 s" in said
