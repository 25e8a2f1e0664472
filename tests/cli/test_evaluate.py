"""`rollhouse eval`, as a user types it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run
from rollhouse.tests.office import TASKS, task_line, write_tables
from typer.testing import CliRunner, Result


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_scripted_policy_on_the_mini_workplace(store: Path) -> None:
    common = ("eval", "env", "--env", "workplace-mini", "--limit", 9, "--store", store)
    result = rollhouse(*common, "--run", "perfect", "--format", "json")
    assert result.exit_code == 0, result.output
    total = json.loads(result.stdout)[-1]
    assert total == {"run_id": "perfect", "category": "all", "passed": 9, "samples": 9, "pass_rate": 1.0, "stderr": 0.0}
    run = get_run(LanceStore.open(store), "perfect")
    assert (run["kind"], run["status"], run["summary"]["pass_rate"]) == ("eval", "finished", 1.0)

    result = rollhouse(*common, "--run", "half", "--mode", "sampled", "--num-repeats", 4, "--mistake-rate", 0.5)
    assert result.exit_code == 0, result.output
    assert "pass@4" in result.stdout and "rollhouse report half" in result.stdout
    rows = LanceStore.open(store).read("evaluations", filter="run_id = 'half'").to_pylist()
    assert len(rows) == 36 and {row["mode"] for row in rows} == {"sampled"}


def test_a_mixture_is_evaluated_by_environment(store: Path) -> None:
    mixture = "environment.mixture=[{name: workplace-mini, weight: 2, limits: {max_turns: 1}, reward: {scale: 2}}, {name: math}]"
    common = ("eval", "env", mixture, "--limit", 9, "--store", store, "--run", "mixed", "--format", "json")
    dry = rollhouse(*common, "--dry-run")
    assert dry.exit_code == 0 and json.loads(dry.stdout)[0]["tasks"] == 9
    rows = json.loads(rollhouse(*common).stdout)
    counts = {row["category"]: (row["passed"], row["samples"]) for row in rows}
    assert counts["all of math"] == (3, 3) and counts["all of workplace-mini"][1] == 6 and counts["all"][1] == 9
    made = LanceStore.open(store).read("evaluations", ["benchmark", "score", "passed", "rollout_id"]).to_pylist()
    assert {(row["benchmark"], row["score"]) for row in made if row["passed"]} >= {("math", 1.0)}
    turns = LanceStore.open(store).read("rollouts", ["environment", "n_turns"]).to_pylist()
    assert {row["n_turns"] for row in turns if row["environment"] == "workplace-mini"} == {1}
    assert set(get_run(LanceStore.open(store), "mixed")["summary"]["by_environment"]) == {"math", "workplace-mini"}
    other = rollhouse(*common, "--mode", "sampled", "--dry-run")
    assert other.exit_code == 2 and "mode is 'greedy' in the run and 'sampled' now" in " ".join(other.stderr.split())
    refused = rollhouse("eval", "env", "environment.mixture=[{name: math}, {name: math}]", "--dry-run")
    assert refused.exit_code == 2 and "stands twice" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("env", "--env", "nowhere"), "no environment 'nowhere'"),
        (("env", "--env", "workplace-mini", "--mode", "best"), "mode cannot be 'best'"),
        (("env", "--env", "workplace-mini", "--num-repeats", "3"), "3 rollouts per task"),
        (("env", "--env", "workplace-mini", "--engine", "abacus"), "no engine 'abacus'"),
        (("env", "--env", "workplace-mini", "--engine", "vllm"), "needs a model"),
        (("bfcl", "--category", "simple_pyton", "--engine", "openai:http://localhost:9"), "'simple_pyton'"),
        (("bfcl", "--engine", "torch"), "needs a model"),
        (("env", "--env", "workplace-mini", "--data-parallel-size", "2"), "has no parallel sizes"),
        (("bfcl", "--engine", "openai:http://localhost:9", "--tensor-parallel-size", "2"), "has no parallel sizes"),
    ],
)
def test_bad_requests_are_two_sentences_and_exit_2(store: Path, arguments: tuple[str, ...], message: str) -> None:
    result = rollhouse("eval", *arguments, "--store", store)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split()) and "Traceback" not in result.stderr


def test_tasks_without_a_split_are_not_held_out(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    tables = write_tables(tmp_path / "tables")
    common = ("eval", "env", "--env", "workplace", "--tables", tables, "--tasks", file, "--store", store)
    result = rollhouse(*common)
    reported = " ".join(result.stderr.split())
    assert result.exit_code == 2 and "no task in split 'validation'" in reported
    assert "--split train" in reported and "--tasks-split validation" in reported
    for more, split in ((("--tasks-split", "validation"), "validation"), (("--split", "train"), "train")):
        place = tmp_path / split
        result = rollhouse(*common[:-1], place, *more, "--format", "json")
        assert result.exit_code == 0 and json.loads(result.stdout)[-1]["samples"] == 3, result.output
        assert LanceStore.open(place).read("tasks")["split"].to_pylist() == [split] * 3


@pytest.mark.parametrize("command", ["collect", "eval"])
def test_more_turns_than_six(store: Path, tmp_path: Path, command: str) -> None:
    creations = [("project_management_create_task", {"task_name": f"Task {i}", "assigned_to_email": "ada.moss@north.example", "list_name": "Backlog", "due_date": "2023-12-05", "board": "Design"}) for i in range(7)]  # fmt: skip
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps(task_line(0, "Make seven tasks", creations)))
    tables = write_tables(tmp_path / "tables")
    words = {"collect": ("collect",), "eval": ("eval", "env", "--split", "train")}[command]
    common = (*words, "--env", "workplace", "--tables", tables, "--tasks", file, "--store", store)
    for turns, played in ((8, 8), (6, 5)):  # one call a turn where that fits, else as few more as needed
        result = rollhouse(*common, "--max-turns", turns, "--run", f"r{turns}")
        assert result.exit_code == 0, result.output
        [row] = LanceStore.open(store).read("rollouts", filter=f"run_id = 'r{turns}'").to_pylist()
        assert (row["n_turns"], row["n_tool_calls"], row["passed"]) == (played, 7, True)


def test_other_settings_under_the_same_name_are_refused(store: Path) -> None:
    common = ("eval", "env", "--env", "workplace-mini", "--limit", 3, "--store", store, "--run", "one")
    assert rollhouse(*common).exit_code == 0
    result = rollhouse(*common, "--mistake-rate", 0.5)
    assert result.exit_code == 2 and "mistake_rate" in result.stderr
    assert rollhouse(*common).exit_code == 0  # the same again is a resumption


def test_options_that_would_change_nothing_are_refused(store: Path) -> None:
    for arguments, reported in {
        ("--temperature", 0.5): "Temperature 0.5 does not fit mode greedy",
        ("--mode", "sampled", "--temperature", 0): "Temperature 0 does not fit mode sampled",
        ("--model", "tiny-base"): "does not evaluate a model, and the model 'tiny-base' is named",
        ("--mistake-rate", 3): "less than or equal to 1",
    }.items():
        result = rollhouse("eval", "env", "--env", "workplace-mini", "--limit", 2, *arguments, "--store", store)
        assert result.exit_code == 2 and reported in result.stderr, result.stderr
    assert not store.exists()


def test_bfcl_with_the_tiny_policy(store: Path, tiny_base: Path, engine: Any) -> None:
    categories = ("--category", "simple_python", "--category", "irrelevance", "--category", "live_multiple")
    common = ("eval", "bfcl", *categories, "--limit", 3, "--max-new-tokens", 48, "--store", store)
    result = rollhouse(*common, "--engine", "vllm", "--model", tiny_base, "--run", "b", "--format", "json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert {row["category"]: row["total"] for row in rows} == {"simple_python": 3, "irrelevance": 3, "live_multiple": 3}
    stored = LanceStore.open(store).read("evaluations").to_pylist()
    assert len(stored) == 9 and all(row["error_type"] or row["passed"] for row in stored)
    assert {row["category"]: row["correct"] for row in rows} == {
        name: sum(row["passed"] for row in stored if row["category"] == name)
        for name in {row["category"] for row in rows}
    }


def test_prompts_longer_than_the_context_are_failed_and_reported(store: Path, tiny_base: Path) -> None:
    result = rollhouse(
        *("eval", "bfcl", "--category", "simple_python", "--limit", 4, "--engine", "torch", "--model", tiny_base),
        *("--max-model-len", 80, "--max-new-tokens", 4, "--store", store, "--format", "json"),
    )
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["total"] == 4 and row["prompt_too_long"] >= 3
    errors = LanceStore.open(store).read("evaluations")["error_type"].to_pylist()
    assert errors.count("prompt_too_long") == row["prompt_too_long"]


def test_the_table_lists_what_was_not_run(store: Path, tiny_base: Path) -> None:
    result = rollhouse(
        *("eval", "bfcl", "--category", "live_parallel", "--limit", 1, "--engine", "torch", "--model", tiny_base),
        *("--max-new-tokens", 4, "--store", store),
    )
    assert result.exit_code == 0, result.output
    reported = " ".join(result.stdout.split())
    assert (
        "memory_vector cannot be run: " in reported
        and "web_search_base cannot be run: it searches the live web" in reported
    )
    assert "not run: simple_python" in reported and "no v3 overall and no v4 overall BFCL score" in reported


def test_a_missing_benchmark_names_the_command(store: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)  # as if it were not installed
    result = rollhouse("eval", "bfcl", "--engine", "torch", "--model", tiny_base, "--store", store)
    assert result.exit_code == 1
    assert "pip install --no-deps bfcl-eval==2026.3.23" in " ".join(result.stderr.split())


def test_bfcl_before_and_after_want_a_training_run(store: Path) -> None:
    for arguments, reported in {
        ("--before",): "Name the run with --run",
        ("--after", "--run", "r", "--model", "m"): "Name the run with --run",
        ("--before", "--run", "absent"): "absent",
        ("--mode", "chat"): "mode cannot be 'chat'",
        ("--category", "memory_vector"): "cannot be run here",
    }.items():
        result = rollhouse("eval", "bfcl", *arguments, "--store", store)
        assert result.exit_code == 2 and reported in result.stderr, result.stderr
    assert (
        rollhouse("eval", "env", "--env", "workplace-mini", "--limit", 2, "--run", "e", "--store", store).exit_code == 0
    )
    result = rollhouse("eval", "bfcl", "--before", "--run", "e", "--store", store)
    assert result.exit_code == 2 and "saved no checkpoint" in result.stderr


def test_compare_names_noise(store: Path) -> None:
    for name, rate in {"base": 0.9, "better": 0.0, "again": 0.9}.items():
        common = ("eval", "env", "--env", "workplace-mini", "--limit", 20, "--store", store)
        assert rollhouse(*common, "--run", name, "--mistake-rate", rate).exit_code == 0
    shown = rollhouse("eval", "compare", "base", "better", "again", "--store", store)
    assert shown.exit_code == 0, shown.output
    reported = " ".join(shown.stdout.split())
    assert "b is better than a" in reported and "the difference is noise" in reported and "flips" in reported
    rows = json.loads(rollhouse("eval", "compare", "base", "better", "--store", store, "--format", "json").stdout)
    whole = next(row for row in rows if row["record"] == "comparison" and row["category"] == "all")
    assert (whole["cases"], whole["b"], whole["verdict"]) == (20, 1.0, "better")
    assert sum(row["record"] == "flip" for row in rows) == whole["b_only"]
    assert "category" in rollhouse("eval", "compare", "base", "better", "--store", store, "--format", "csv").stdout
    unknown = rollhouse("eval", "compare", "base", "bettr", "--store", store)
    assert unknown.exit_code == 2 and "bettr" in unknown.stderr
