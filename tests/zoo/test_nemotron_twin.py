"""A tiny twin of Nemotron Nano 9B v2 (Mamba, MLP and attention layers, its kind of template) through the commands: collect, SFT, DPO, GRPO on vLLM, resume, replay."""

import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from rollhouse.tests.policies.templates import NEMOTRON_V2
from rollhouse.tests.random_model import byte_tokenizer
from typer.testing import CliRunner

from .architectures import ARCHITECTURES

GUESS = f"{Path(__file__).with_name('guess.py')}:EvenLength"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = next(architecture for architecture in ARCHITECTURES if architecture.name.startswith("Nemotron-H (Nano"))
    tokenizer = byte_tokenizer(NEMOTRON_V2)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"]})
    tokenizer.eos_token = "<SPECIAL_12>"
    folder = found.build(tmp_path_factory.mktemp("twin") / "model", len(tokenizer))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.system
def test_the_whole_way(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLHOUSE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)

    def run(*command: str, fails: bool = False) -> str:
        result = CliRunner().invoke(app, list(command))
        assert bool(result.exit_code) == fails, f"{command}: {result.output}"
        return result.output

    def query(sql: str) -> list[dict[str, Any]]:
        return json.loads(run("sql", sql, "--format", "json"))

    off = "--no-enable-thinking"
    run("collect", "--env", GUESS, "--engine", "torch", "--model", str(twin), off, "--num-repeats", "8", "--max-new-tokens", "12", "--seed", "0", "--run", "before", "--snapshot", "s1")  # fmt: skip
    played = query(
        "SELECT count(*) AS n, count(DISTINCT reward) AS rewards, count(DISTINCT template_hash) AS templates FROM rollouts"
    )
    assert played == [{"n": 64, "rewards": 2, "templates": 1}]

    chat = "policy.chat.enable_thinking=false"
    small = ["policy.max_total_sequence_length=256"]
    run("dataset", "build", "sft", "demos", "--from", "s1")
    run("train", "sft", "--dataset", "demos", "--model", str(twin), "--run", "sft", "sft.max_num_steps=2", *small)
    run("dataset", "build", "dpo", "pairs", "--from", "s1")
    run("train", "dpo", "--dataset", "pairs", "--model", "sft", "--run", "dpo", "dpo.max_num_steps=2", *small)
    run("dataset", "build", "grpo", "prompts", "--from", "s1")
    grpo = ["train", "grpo", "--dataset", "prompts", "--model", str(twin), "--run", "grpo", chat, *small, f"environment.name={GUESS}", "environment.max_turns=1"]  # fmt: skip
    grpo += ["policy.generation.max_new_tokens=12", "policy.optimizer.lr=1e-3", "grpo.num_prompts_per_step=2", "grpo.num_generations_per_prompt=4", "checkpointing.save_period=1"]  # fmt: skip
    run(*grpo, "grpo.max_num_steps=1")
    run(*grpo, "grpo.max_num_steps=2")  # resumes
    gaps = query("SELECT value FROM metrics WHERE run_id = 'grpo' AND name = 'mismatch/sync_max_abs'")
    assert len(gaps) >= 3 and all(row["value"] < 1e-4 for row in gaps)
    run("train", "replay", "grpo", "--run", "again")
    hashes = query("SELECT run_id, weights_hash FROM checkpoints WHERE step = 2 AND run_id IN ('grpo', 'again')")
    assert len({row["weights_hash"] for row in hashes}) == 1 < len(hashes)
