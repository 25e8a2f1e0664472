"""`rollhouse dataset` and `rollhouse train`, as a user types them."""

import json
from pathlib import Path

import pytest
from rollhouse.cli.main import app
from typer.testing import CliRunner


def rollhouse(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(*arguments: object) -> list[dict]:
    result = rollhouse(*arguments, "--format", "json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def refusal(*arguments: object) -> tuple[int, str]:
    """Exit code and output on one line."""
    result = rollhouse(*arguments)
    return result.exit_code, " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripted rollouts of twelve train tasks, four each, and of three validation tasks in a run of their own."""
    place = tmp_path_factory.mktemp("cli") / "store"
    play = ["collect", "--env", "workplace-mini", "--mistake-rate", 0.4, "--store", place]
    assert rollhouse(*play, "--limit", 12, "--num-repeats", 4, "--run", "logs", "--snapshot", "s1").exit_code == 0
    held_out = [*play, "--limit", 3, "--split", "validation", "--run", "looked", "--snapshot", "s2"]
    assert rollhouse(*held_out).exit_code == 0
    return place


def test_build_list_show_and_why(store: Path) -> None:
    built = rows("dataset", "build", "sft", "demos", "--from", "s1", "per_task_cap=1", "--store", store)[0]
    assert built["dataset"] == "demos@1" and not built["existed"] and built["recipe"]["per_task_cap"] == 1
    again = rollhouse("dataset", "build", "sft", "demos", "--from", "s1", "per_task_cap=1", "--store", store)
    assert "demos@1 exists already" in again.stdout and "reward below 1" in again.stdout
    assert [row["dataset"] for row in rows("dataset", "list", "--store", store)] == ["demos@1"]
    manifest = rows("dataset", "show", "demos", "--store", store)[0]
    assert manifest["fingerprint"] == built["fingerprint"] and manifest["rows"] == built["rows"]
    references = rows("dataset", "show", "demos", "--rows", "--store", store)
    assert len(references) == built["rows"]
    why = rows("dataset", "why", "demos", references[0]["rollout_id"], "--store", store)
    assert why[0]["in_dataset"] and why[0]["role"] == "demo"


def test_a_training_prints_what_it_was_trained_on(store: Path, tiny_base: Path) -> None:
    rows("dataset", "build", "sft", "shown", "--from", "s1", "per_task_cap=1", "--store", store)
    command = ["train", "sft", "--config", "tiny-sft", "--dataset", "shown", "--model", tiny_base, "--run", "short"]
    result = rollhouse(*command, "sft.max_num_steps=1", "--store", store)
    n = rows("dataset", "show", "shown", "--store", store)[0]["rows"]
    assert f"rollouts: 0 on their sampled tokens, {n} rendered, 0 left out" in " ".join(result.stdout.split())


def test_pairs_prompts_and_flags(store: Path) -> None:
    pairs = rows("dataset", "build", "dpo", "pairs", "--from", "s2", "--run", "logs", "--store", store)[0]
    assert pairs["kind"] == "dpo" and pairs["recipe"]["runs"] == ["logs"] and pairs["mean_gap"] == 1
    prompts = rows("dataset", "build", "grpo", "prompts", "--from", "s1", "--store", store)[0]
    assert 0 < prompts["rows"] < 12 and prompts["dropped"]["always solved"] > 0
    dry = rollhouse("dataset", "build", "dpo", "x", "--from", "s1", "--run", "a", "min_gap=0.3", "--dry-run")
    assert "min_gap: 0.3" in dry.stdout and "- a" in dry.stdout


def test_requests_that_are_wrong(store: Path) -> None:
    build = ["dataset", "build", "sft", "bad", "--store", store, "--from"]
    for expected, arguments in {
        "belong to validation tasks (run looked)": [*build, "s2"],
        "Did you mean 'min_reward'?": [*build, "s1", "min_rewards=1"],
        "no snapshot 'absent'": [*build, "absent"],
        "no dataset 'absent'": ["dataset", "show", "absent", "--store", store],
        "policy.model_name is not set": ["train", "sft", "--dataset", "x", "--store", store],
        "There is no store": ["dataset", "list", "--store", store / "elsewhere"],
    }.items():
        code, output = refusal(*arguments)
        assert code == 2 and expected in output, output
    code, output = refusal(*build, "s1", "min_reward=2")
    assert code == 1 and "'reward below 2' dropped the last 48 of 48" in output


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_train_from_the_command_line(store: Path, tiny_base: Path, kind: str) -> None:
    rows("dataset", "build", kind, f"for-{kind}", "--from", "s1", "--store", store)
    command = (
        "train", kind, "--config", f"tiny-{kind}", "--dataset", f"for-{kind}", "--model", tiny_base, "--run", f"cli-{kind}",
        f"{kind}.max_num_steps=1", "policy.train_global_batch_size=2", "policy.train_micro_batch_size=2",
        "--store", store,
    )  # fmt: skip
    (made,) = rows(*command)
    assert made["checkpoint_id"] == f"cli-{kind}/step_1" and made["metrics"]["train/loss"] > 0
    assert Path(made["path"]) == store / "checkpoints" / f"cli-{kind}" / "step_1"
    assert rows(*command) == [made] and "already trained" in refusal(*command)[1]
    code, output = refusal(*command, f"{kind}.seed=1")
    assert code == 2 and f"{kind}.seed is 0 in the run and 1 now" in output
    code, output = refusal(*command, "--run", "logs")
    assert code == 2 and f"of kind collect, not {kind}" in output


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_shipped_recipes_resolve(kind: str) -> None:
    printed = rollhouse("train", kind, "--config", f"tiny-{kind}", "--dataset", "d", "--dry-run")
    assert printed.exit_code == 0 and "model_name: tiny-base" in printed.stdout and "dataset: d" in printed.stdout


def test_the_tiny_base_can_be_made(tiny_base: Path) -> None:
    assert rollhouse("train", "tiny").stdout.strip().replace("\n", "") == str(tiny_base)
