"""`rollhouse tasks generate` fills the store once."""

import json
from pathlib import Path

from rollhouse.cli.main import app
from rollhouse.store.lance_store import LanceStore
from typer.testing import CliRunner


def generate(store: Path, *more: str) -> list[dict]:
    result = CliRunner().invoke(
        app, ["tasks", "generate", "--env", "workplace-mini", "--store", str(store), "--format", "json", *more]
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_tasks_and_prompts_are_stored_once(tmp_path: Path) -> None:
    first, again = generate(tmp_path / "store"), generate(tmp_path / "store")
    assert [(row["split"], row["tasks"], row["new"]) for row in first] == [
        ("train", 400, 400),
        ("validation", 120, 120),
    ]
    assert [row["new"] for row in again] == [0, 0]
    store = LanceStore.open(tmp_path / "store")
    tasks, prompts = store.read("tasks", ["task_id", "prompt_id", "split"]), store.read("prompts", ["prompt_id"])
    assert tasks.num_rows == 520
    assert set(tasks["prompt_id"].to_pylist()) == set(prompts["prompt_id"].to_pylist())


def test_another_seed_gives_other_tasks(tmp_path: Path) -> None:
    generate(tmp_path / "store", "--split", "test")
    assert generate(tmp_path / "store", "--split", "test", "--seed", "1")[0]["new"] > 100


def test_a_count_is_that_of_the_generator_or_at_most_so_many(tmp_path: Path) -> None:
    assert [row["tasks"] for row in generate(tmp_path / "store", "--count", "450")] == [450, 450]
    file = Path(__file__).resolve().parents[2] / "examples" / "guess_the_number.py"
    rows = generate(tmp_path / "store", "--env", str(file), "--count", "7")  # the last --env counts
    assert [row["tasks"] for row in rows] == [7, 6]
