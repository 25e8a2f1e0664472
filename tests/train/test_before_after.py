"""Train, then measure what it changed: `eval bfcl --run RUN --before --after` on a run that really trained."""

import json
from typing import Any

import pytest
from rollhouse.cli.main import app
from rollhouse.store.runs import get_run
from rollhouse.transform.build import build_sft
from typer.testing import CliRunner, Result


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.system
def test_bfcl_before_and_after_a_run(office: Any, fresh_model: Any, tmp_path: Any) -> None:
    build_sft(office.store, "demos", "s1")
    store = ("--store", office.store.uri)
    small = ("policy.train_global_batch_size=6", "policy.train_micro_batch_size=6", "policy.optimizer.lr=2e-3", "sft.max_num_steps=2")  # fmt: skip
    trained = rollhouse("train", "sft", "--dataset", "demos", "--model", fresh_model, "--run", "learn", *small, *store)
    assert trained.exit_code == 0, trained.output
    few = ("--category", "simple_python", "--category", "irrelevance", "--limit", 2, "--max-new-tokens", 8)
    both = ("eval", "bfcl", "--run", "learn", "--before", "--after", *few, *store)
    shown = rollhouse(*both, "--engine", "torch")
    assert shown.exit_code == 0, shown.output
    said = " ".join(shown.stdout.split())
    assert "learn-bfcl-before" in said and "learn-bfcl-after" in said and "not run:" in said and "noise" in said

    rows = office.store.read("evaluations").to_pylist()
    evaluated = {(row["run_id"], row["case_id"]) for row in rows}
    assert len(rows) == len(evaluated) == 8 and len({case for _, case in evaluated}) == 4
    before, after = (get_run(office.store, f"learn-bfcl-{stage}") for stage in ("before", "after"))
    assert before["config"]["model_hash"] == get_run(office.store, "learn")["config"]["model_hash"]
    assert after["config"]["model_hash"] == get_run(office.store, "learn")["summary"]["weights_hash"]
    assert {row["policy_id"] for row in rows} == {before["config"]["model_hash"], after["config"]["model_hash"]}

    again = rollhouse(*both, "--engine", "torch", "--format", "json")
    assert again.exit_code == 0 and len(json.loads(again.stdout)) == 4
    assert office.store.lance_dataset("evaluations").count_rows() == 8, "a judged case is not sampled again"
    other = rollhouse(*both, "--engine", "vllm")
    message = " ".join(other.stderr.split())
    assert other.exit_code == 2 and "policy.engine is 'torch' in the run and 'vllm' now" in message
    assert "one by one" in message and "eval compare" in message and "another name" not in message
