"""The shipped recipes: every one resolves under the command its own head shows, and the tiny ones run."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollhouse.base.recipes import RECIPES
from rollhouse.cli.main import app
from typer.testing import CliRunner, Result

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(*arguments: object) -> list[dict[str, Any]]:
    result = rollhouse(*arguments, "--format", "json")
    assert result.exit_code == 0, (result.exception, result.stderr)
    return json.loads(result.stdout)


def commands(name: str) -> list[list[str]]:
    """Arguments of the commands in a recipe's head, continued lines joined."""
    head = re.match(r"(?:#.*\n)+", (RECIPES / f"{name}.yaml").read_text())
    lines = head[0].replace("\\\n#", " ").splitlines() if head else []
    return [shlex.split(line[1:])[1:] for line in lines if line[1:].strip().startswith("rollhouse ")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the heads of the recipes name: tables, tasks, questions, a template and a parser."""
    place = tmp_path_factory.mktemp("desk")
    assert rollhouse("tasks", "tables", place / "tables").exit_code == 0
    tasks = ["--tables", place / "tables", "--count", 8, "--split", "train", "--output", place / "tasks.jsonl"]
    assert rollhouse("tasks", "generate", "--env", "workplace", *tasks).exit_code == 0
    question = {"prompt": [{"role": "user", "content": "What is 6 times 7?"}], "reward_model": {"ground_truth": "42"}}
    pq.write_table(pa.Table.from_pylist([question]), place / "dapo-math-17k.parquet")
    (place / "chat.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    (place / "parser.py").write_text("def parse(text):\n    return text, [], 0\n")
    return place


@pytest.mark.parametrize("name", NAMES)
def test_the_head_of_a_recipe_shows_a_command_that_resolves(
    name: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    shown = commands(name)
    assert any(["--config", name] == words[at : at + 2] for words in shown for at in range(len(words))), shown
    for words in shown:
        result = rollhouse(*words, "--dry-run")
        assert result.exit_code == 0, (words, result.exception, result.stderr)


def test_the_guide_names_every_recipe() -> None:
    guide = (RECIPES.parent / "docs" / "recipes.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in guide] == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rollouts of the office, some solved and some not, in the snapshot s1; questions likewise, in sums."""
    place = tmp_path_factory.mktemp("recipes") / "store"
    play = ["collect", "--engine", "scripted", "--mistake-rate", 0.5, "--num-repeats", 8, "--store", place]
    office = [*play, "--env", "workplace-mini", "--limit", 6, "--run", "office", "--snapshot", "s1"]
    sums = [*play, "--env", "math", "--limit", 3, "--run", "sums", "--snapshot", "sums"]
    for command in (office, sums):
        assert rollhouse(*command).exit_code == 0
    return place


@pytest.mark.parametrize(("kind", "recipe"), [("sft", "demos-high-reward"), ("dpo", "pairs-mixed"), ("grpo", "prompts-mixed")])  # fmt: skip
def test_datasets_are_built_by_recipe(store: Path, kind: str, recipe: str) -> None:
    (built,) = rows("dataset", "build", kind, kind, "--from", "s1", "--run", "office", "--config", recipe, "--store", store)  # fmt: skip
    assert built["kind"] == kind and built["rows"] > 0
    references = rows("dataset", "show", kind, "--rows", "--store", store)
    by_task = [sum(row["task_id"] == task for row in references) for task in {row["task_id"] for row in references}]
    # Demonstrations: a task's two ways of being solved at most; a pair has two rows; a task is a prompt once.
    assert max(by_task) <= 4 and len(by_task) == built["tasks"]
    if kind == "sft":
        solved = rows("sql", "select rollout_id from rollouts where passed and run_id = 'office'", "--store", store)
        assert {row["rollout_id"] for row in references} <= {row["rollout_id"] for row in solved}


def test_math_is_collected_by_recipe(store: Path) -> None:
    given = ["policy.engine=scripted", "policy.generation.vllm.data_parallel_size=1", "policy.max_total_sequence_length=null", "environment.limit=2"]  # fmt: skip
    (reported,) = rows("collect", "--config", "collect-math", "--run", "by-recipe", *given, "--store", store)
    assert reported["collected"] == 16 and reported["failed"] == 0


def test_the_tiny_policy_collects_by_recipe(store: Path, engine: Any, tiny_base: Path) -> None:
    given = ["--model", tiny_base, "environment.limit=3", "num_repeats=2"]
    (reported,) = rows("collect", "--config", "tiny-collect", "--run", "tiny", *given, "--store", store)
    assert reported["collected"] == 6 and reported["failed"] == 0 and reported["sampled_tokens"] > 0


def test_the_tiny_policy_does_sums_by_recipe(store: Path, engine: Any, tiny_base: Path) -> None:
    build = ["dataset", "build", "grpo", "sums", "--config", "prompts-mixed", "--from", "sums", "--run", "sums"]
    assert rows(*build, "--store", store)[0]["rows"] >= 2
    size = ["grpo.max_num_steps=1", "grpo.num_prompts_per_step=2", "grpo.num_generations_per_prompt=2"]
    train = ["train", "grpo", "--config", "tiny-math-grpo", "--dataset", "sums", "--model", tiny_base, "--run", "math"]
    (made,) = rows(*train, *size, "policy.generation.max_new_tokens=24", "--store", store)
    assert made["checkpoint_id"] == "math/step_1" and made["metrics"]["rollouts/total"] >= 4
    judged = rows("sql", "select distinct scorer from rollouts where run_id = 'math'", "--store", store)
    assert judged == [{"scorer": "math-verify"}]


@pytest.mark.system
def test_the_tiny_policy_learns_in_two_ranks_beside_its_engine_by_recipe(
    store: Path, engine: Any, tiny_base: Path
) -> None:
    build = ["dataset", "build", "grpo", "office", "--config", "prompts-mixed", "--from", "s1", "--run", "office"]
    assert rows(*build, "--store", store)[0]["rows"] >= 2
    size = ["grpo.max_num_steps=2", "grpo.num_prompts_per_step=2", "grpo.num_generations_per_prompt=4"]
    train = [
        "train",
        "grpo",
        "--config",
        "tiny-async-grpo",
        "--dataset",
        "office",
        "--model",
        tiny_base,
        "--run",
        "beside",
    ]
    (made,) = rows(*train, *size, "--store", store)
    assert made["checkpoint_id"] == "beside/step_2" and made["metrics"]["staleness/max"] <= 1
    assert rows("sql", "select kind, status from runs where run_id = 'beside'", "--store", store) == [{"kind": "grpo", "status": "finished"}]  # fmt: skip
