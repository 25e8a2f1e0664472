"""SFT through TRL, on a fresh model that learns a handful of rows by heart."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError, StoreNotFound, TrainingError
from rollhouse.base.recipes import resolve
from rollhouse.policies.models import weights_hash
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import get_run, start_run
from rollhouse.train.checkpoints import find_checkpoint, resolve_model
from rollhouse.train.offline import quiet
from rollhouse.train.runs import run_identity
from rollhouse.train.sft import SftConfig, sft_columns, train_sft
from rollhouse.train.tokens import Tokenizing
from rollhouse.train.trl_setup import on_one_device
from rollhouse.transform.build import build_sft
from rollhouse.transform.materialize import sft_rows
from rollhouse.transform.options import SftOptions


def config(model: Path, results: Path, *overrides: str) -> SftConfig:
    base = [f"policy.model_name={model}", f"checkpointing.checkpoint_dir={results}", "dataset=demos", "run=learn"]
    small = ["policy.train_global_batch_size=6", "policy.train_micro_batch_size=6", "policy.optimizer.lr=2e-3"]
    return resolve(SftConfig, None, [*base, *small, "sft.max_num_steps=8", *overrides])


def test_a_run_from_dataset_to_checkpoint(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    seen = []
    settings = config(fresh_model, tmp_path / "results", "checkpointing.save_period=4")
    row = train_sft(office.store, settings, on_step=lambda *step: seen.append(step))

    assert row["checkpoint_id"] == "learn/step_8" and row["dataset"] == "demos@1"
    assert row["parent_hash"] == weights_hash(fresh_model) != row["weights_hash"] == weights_hash(row["path"])
    folder = Path(row["path"])
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step_4", "step_8"]
    assert (folder / "chat_template.jinja").exists() and resolve_model(office.store, "learn") == folder
    assert resolve_model(office.store, "learn/step_4") == folder.with_name("step_4")
    assert [step[:2] for step in seen] == [(n, 8) for n in range(1, 9)]
    on_the_way = json.loads(find_checkpoint(office.store, "learn/step_4")["metrics"])  # type: ignore
    at_step = office.store.read("metrics", filter="run_id = 'learn' and step = 4").to_pylist()
    assert on_the_way and on_the_way == {row["name"]: row["value"] for row in at_step}

    metrics = office.store.read("metrics", filter="run_id = 'learn' and name = 'train/loss'").to_pylist()
    losses = [metric["value"] for metric in sorted(metrics, key=lambda metric: metric["step"])]
    assert len(losses) == 8 and losses[-1] < 0.5 * losses[0]
    run = get_run(office.store, "learn")
    assert run["status"] == "finished" and run["config"]["dataset"] == "demos@1"
    assert run["config"]["model_hash"] == row["parent_hash"] and run["summary"]["rows"]["sampled"] == 6


def test_the_same_settings_give_the_same_weights(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    short = ("sft.max_num_steps=2",)
    first = train_sft(office.store, config(fresh_model, tmp_path / "a", *short))
    second = train_sft(office.store, config(fresh_model, tmp_path / "b", *short, "run=again"))
    assert first["weights_hash"] == second["weights_hash"]


def test_a_run_that_is_done_is_not_trained_again(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    settings = config(fresh_model, tmp_path / "r", "sft.max_num_steps=1")
    seen = []
    first = train_sft(office.store, settings)
    assert train_sft(office.store, settings, on_step=lambda *step: seen.append(step)) == first
    assert [step[:2] for step in seen] == [(1, 1)] and "already trained" in seen[0][2]
    assert get_run(office.store, "learn")["incarnation"] == 0 and office.store.read("checkpoints").num_rows == 1
    with pytest.raises(
        ConfigError,
        match=r"'learn' exists with a different configuration: .*policy\.optimizer\.lr is 0\.002 in the run and 0\.001 now",
    ):
        train_sft(office.store, config(fresh_model, tmp_path / "r", "sft.max_num_steps=1", "policy.optimizer.lr=1e-3"))
    shutil.rmtree(first["path"])
    assert train_sft(office.store, settings)["weights_hash"] == first["weights_hash"], "what is gone is made again"


def test_a_batch_is_not_multiplied_by_the_gpus(tmp_path) -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True, report_to="none")
    _ = arguments.device
    arguments._n_gpu = 8  # as on a machine that has them
    assert arguments.train_batch_size == 32 and on_one_device(arguments).train_batch_size == 4


@pytest.mark.parametrize("before", ["0", None])
def test_the_caller_s_progress_bars_stay_as_they_were(monkeypatch, before) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if before is not None:
        monkeypatch.setenv("TQDM_DISABLE", before)
    with quiet():
        assert os.environ["TQDM_DISABLE"] == "1"
    assert os.environ.get("TQDM_DISABLE") == before


def test_our_tokens_are_those_trl_makes_of_messages_and_tools(office, fresh_model, tmp_path) -> None:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    given = sft_rows(office.store, build_sft(office.store, "demos", "s1", SftOptions(runs=["scripted"])))
    ours = [sft_columns(row) for each in given for row in Tokenizing(office.chat, 512).rows(each)]
    theirs = Dataset.from_list(
        [
            {
                "messages": [message.to_openai() for message in (*row.prompt, *row.messages)],
                "tools": row.tools,
            }
            for row in given
        ]
    )
    arguments = SFTConfig(str(tmp_path), assistant_only_loss=True, use_cpu=True, bf16=False, report_to="none")
    trainer = SFTTrainer(str(fresh_model), arguments, train_dataset=theirs, processing_class=office.chat.tokenizer)
    prepared: Any = trainer.train_dataset
    for mine, trls in zip(ours, prepared, strict=True):
        length = len(mine["input_ids"])
        assert mine["input_ids"] == trls["input_ids"][:length] and mine["labels"] == trls["labels"][:length]
        assert all(label == -100 for label in trls["labels"][length:])


def test_weights_and_biases_offline(office, fresh_model, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    build_sft(office.store, "demos", "s1")
    logs = tmp_path / "logs"
    train_sft(
        office.store,
        config(
            fresh_model, tmp_path / "r", "sft.max_num_steps=1", "logger.wandb_enabled=true", f"logger.log_dir={logs}"
        ),
    )
    (here,) = logs.glob("wandb/offline-run-*/run-learn-*.wandb")
    identity = here.stem.removeprefix("run-learn-")
    elsewhere = LanceStore.create(tmp_path / "elsewhere")
    for store, same in ((office.store, True), (elsewhere, False)):
        with start_run(store, "sft", "learn") as again:
            assert (run_identity(again) == identity) == same


def test_what_does_not_fit_is_named_before_a_run_starts(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text(json.dumps({}))
    for overrides, error, message in (
        (["dataset=demo"], StoreNotFound, "demos@1"),
        ([f"policy.model_name={empty}"], ConfigError, "weights"),
        (["policy.max_total_sequence_length=20"], ConfigError, "longer than"),
    ):
        with pytest.raises(error, match=message):
            train_sft(office.store, config(fresh_model, tmp_path / "r", *overrides))
    assert office.store.lance_dataset("run_events").count_rows("kind = 'sft'") == 0
    for overrides, message in (
        (["policy.train_micro_batch_size=4"], "multiple"),
        (["trl.pakking=true"], "pakking"),
        (["trl.output_dir=x"], "cannot be set"),
        (["++trl.packing_strategy=wrapped"], "cuts rows"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_sft(office.store, config(fresh_model, tmp_path / "r", *overrides))


def test_a_loss_that_is_not_finite_stops_the_run(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    with pytest.raises(TrainingError, match="not finite"):
        train_sft(office.store, config(fresh_model, tmp_path / "r", "policy.optimizer.lr=1e30"))
    assert get_run(office.store, "learn")["status"] == "failed"
    assert office.store.read("checkpoints").num_rows == 0


def test_a_dry_run_shows_rows_with_what_is_learned_marked(office, fresh_model, tmp_path) -> None:
    from rollhouse.cli.main import app
    from typer.testing import CliRunner

    build_sft(office.store, "demos", "s1", SftOptions(runs=["scripted"]))
    given = ["train", "sft", "--dataset", "demos", "--model", str(fresh_model), "--dry-run", "--store", str(office.store.uri)]  # fmt: skip
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("⟦<tool_call>") >= 6 and "⟦Done.<|im_end|>⟧" in shown.stdout
    recipe = tmp_path / "again.yaml"
    recipe.write_text(shown.stdout)
    assert resolve(SftConfig, str(recipe), []).dataset == "demos"
    rows = json.loads(CliRunner().invoke(app, [*given, "--format", "json"]).stdout)[0]["sample"]
    assert len(rows) == 6 and all("rendered" in row and "⟧" in row for row in rows)
    missing = CliRunner().invoke(app, [*given, "dataset=other"])
    assert missing.exit_code == 0 and "No rows are shown" in missing.stderr


def test_a_model_folder_without_all_its_weights_is_refused(fresh_model, tmp_path) -> None:
    from rollhouse.train.offline import load_model
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "half"
    shutil.copytree(fresh_model, folder)
    weights = load_file(folder / "model.safetensors")
    n = len(weights)
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 of \d+ tensors .*model\.norm\.weight"):
        load_model(folder)
    assert n > 1
