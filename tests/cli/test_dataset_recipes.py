"""`rollhouse dataset` with recipes in files, evaluation sets, comparisons and exports, as a user types it."""

import json
from pathlib import Path

import pytest

from .test_dataset_train import refusal, rollhouse, rows, store  # noqa: F401


def test_flags_and_files_are_options_of_the_recipe(store: Path, tmp_path: Path) -> None:  # noqa: F811
    query = tmp_path / "good.sql"
    query.write_text("SELECT rollout_id FROM rollouts\nWHERE passed;\n")
    build = ["dataset", "build", "sft", "--from", "s1", "--store", store]
    (by_sql,) = rows(*build, "by-sql", "--sql", query)
    assert by_sql["recipe"]["sql"] == query.read_text().strip().rstrip(";") and by_sql["recipe"]["per_task_cap"] is None
    assert by_sql["dropped"].keys() == {"the recipe does not name it"}
    function = tmp_path / "good.py"
    function.write_text("def good(frame):\n    return frame.filter('passed')\n")
    (by_function,) = rows(*build, "by-function", "--function", f"{function}:good")
    assert by_function["rows"] == by_sql["rows"]
    assert refusal(*build, "x", "--sql", tmp_path / "absent.sql")[0] == 2
    assert "FILE.py:NAME" in refusal(*build, "x", "--function", function)[1]
    assert "either `sql` or `function`" in refusal(*build, "x", "--sql", query, "--function", f"{function}:good")[1]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("per_task_cap: 2\ncontamination:\n  ngram: 6\n")
    dry = rollhouse("dataset", "build", "sft", "x", "--from", "s1", "--config", recipe, "--per-task", 1, "--min-reward", 1, "--against", "bfcl", "contamination.min_overlap=0.7", "--dry-run")  # fmt: skip
    for line in ("per_task_cap: 1", "min_reward: 1.0", "ngram: 6", "- bfcl", "min_overlap: 0.7"):
        assert line in dry.stdout
    dry = rollhouse(
        "dataset", "build", "grpo", "x", "--from", "s1", "--weights", "hard", "--order", "easy_first", "--dry-run"
    )
    assert "weights: hard" in dry.stdout and "order: easy_first" in dry.stdout
    assert (
        "pairing" in refusal("dataset", "build", "dpo", "x", "--from", "s1", "--pairing", "worst", "--store", store)[1]
    )


def test_overlap_with_evaluation_sets_is_shown(store: Path, tmp_path: Path) -> None:  # noqa: F811
    (task,) = rows("sql", "SELECT task_id, messages[-1].text AS text FROM tasks JOIN prompts USING (prompt_id) WHERE split = 'train' ORDER BY task_id LIMIT 1", "--store", store)  # fmt: skip
    cases = tmp_path / "quiz.jsonl"
    cases.write_text(json.dumps({"id": "q1", "text": task["text"]}) + "\n")
    build = ["dataset", "build", "grpo", "apart", "--from", "s1", "--store", store, "zero_variance=keep", "--against"]
    (built,) = rows(*build, cases)
    assert built["dropped"]["in evaluation set quiz by text"] >= 1
    assert "in evaluation set quiz by text" in rollhouse(*build, cases).stdout
    flagged = rows("dataset", "show", "apart", "--flagged", "--store", store)
    assert {"id": task["task_id"], "reference": "q1", "method": "text", "score": 1.0} in flagged
    (why,) = rows("dataset", "why", "apart", task["task_id"], "--store", store)
    assert why["reason"] == "in evaluation set quiz by text; text of q1 (1.00)"
    assert "There is no file" in refusal(*build, tmp_path / "absent.jsonl")[1]


def test_diff_and_export(store: Path, tmp_path: Path) -> None:  # noqa: F811
    for most in (1, 2):
        rows("dataset", "build", "dpo", "two", "--from", "s1", f"max_pairs={most}", "--store", store)
    (found,) = rows("dataset", "diff", "two@1", "two@2", "--store", store)
    assert found["only_right"] == 1 and found["recipe"] == [{"option": "max_pairs", "left": 1, "right": 2}]
    shown = rollhouse("dataset", "diff", "two@1", "two@2", "--store", store).stdout
    assert "max_pairs" in shown and "only_right" in shown
    only = rows("dataset", "diff", "two@1", "two@2", "--rows", "--store", store)
    assert len(only) == found["only_left"] + found["only_right"]
    out = tmp_path / "pairs.jsonl"
    (reported,) = rows("dataset", "export", "two@2", "nemo-preference", out, "--store", store)
    assert reported["rows"] == len(out.read_text().splitlines()) > 0 and reported["left_out"] == {}
    code, output = refusal("dataset", "export", "two@2", "openai", out, "--store", store)
    assert code == 2 and "Formats are trl, nemo-preference, nemo-binary" in output


@pytest.mark.parametrize(("kind", "target"), [("sft", "trl"), ("sft", "trl-messages"), ("dpo", "trl")])
def test_trl_trains_on_what_was_exported(store: Path, tiny_base: Path, tmp_path: Path, kind: str, target: str) -> None:  # noqa: F811
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    out = tmp_path / "rows.parquet"
    rows(
        "dataset",
        "build",
        kind,
        f"out-{kind}",
        "--from",
        "s1",
        "max_rows=2" if kind == "sft" else "max_pairs=2",
        "--store",
        store,
    )
    (reported,) = rows("dataset", "export", f"out-{kind}", target, out, "--store", store)
    data = load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == reported["rows"] == 2
    settings = {"sft": SFTConfig, "dpo": DPOConfig}[kind](
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = {"sft": SFTTrainer, "dpo": DPOTrainer}[kind](
        model=AutoModelForCausalLM.from_pretrained(tiny_base),
        args=settings,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(tiny_base),
    )
    assert trainer.train().training_loss > 0
