"""DPO through TRL: only what the policy said is scored."""

from pathlib import Path

import pytest
from rollhouse.base.recipes import resolve
from rollhouse.train.dpo import DpoConfig, loss, train_dpo
from rollhouse.train.sides import PairCollator, dpo_columns
from rollhouse.train.tokens import Tokenizing
from rollhouse.transform.build import build_dpo
from rollhouse.transform.materialize import dpo_rows
from rollhouse.transform.options import DpoOptions

from .conftest import N_TASKS


def config(model: Path, results: Path, *overrides: str) -> DpoConfig:
    base = [f"policy.model_name={model}", f"checkpointing.checkpoint_dir={results}", "dataset=pairs", "run=prefer"]
    small = ["policy.train_global_batch_size=4", "policy.train_micro_batch_size=2", "policy.optimizer.lr=5e-4"]
    return resolve(DpoConfig, None, [*base, *small, "dpo.max_num_steps=6", *overrides])


def pairs(office, run: str):
    options = DpoOptions(runs=[run], max_pairs_per_group=1)
    return dpo_rows(office.store, build_dpo(office.store, "pairs", "s1", options))


@pytest.mark.parametrize("run", ["sampled", "scripted"])
def test_tool_results_and_prompts_are_not_scored(office, run) -> None:
    given = pairs(office, run)
    tokens = Tokenizing(office.chat, 512)
    rows = [dpo_columns(*sides) for pair in given if (sides := tokens.pair(pair)) is not None]
    batch = PairCollator(office.chat.tokenizer.pad_token_id)(rows)
    assert len(rows) == N_TASKS and tokens.check()["sampled" if run == "sampled" else "rendered"] == 2 * N_TASKS
    sides = [pair.chosen for pair in given] + [pair.rejected for pair in given]
    for ids, mask, side in zip(batch["input_ids"], batch["completion_mask"], sides, strict=True):
        scored = office.chat.tokenizer.decode(ids[mask.bool()])
        results = [message.text for message in side.messages if message.role == "tool"]
        assert scored.count("<|im_end|>") == len(results) + 1 and scored.endswith("Done.<|im_end|>")
        assert "<tool_response>" not in scored and "<|im_start|>" not in scored
        assert office.chat.tokenizer.decode(ids).count("<tool_response>") == len(results)


def test_a_run_widens_the_margin(office, fresh_model, tmp_path) -> None:
    build_dpo(office.store, "pairs", "s1")
    row = train_dpo(office.store, config(fresh_model, tmp_path / "results"))
    assert row["checkpoint_id"] == "prefer/step_6" and row["dataset"] == "pairs@1"
    rows = office.store.read("metrics", filter="run_id = 'prefer'").to_pylist()
    margins = {row["step"]: row["value"] for row in rows if row["name"] == "train/rewards/margins"}
    losses = {row["step"]: row["value"] for row in rows if row["name"] == "train/loss"}
    assert losses[1] == pytest.approx(0.6931, abs=1e-3) and margins[1] == pytest.approx(0, abs=1e-3)
    assert margins[6] > 0.05 and losses[6] < losses[1]


def test_loss_settings_reach_trl(office, fresh_model, tmp_path) -> None:
    settings = config(fresh_model, tmp_path / "r", "dpo.sft_loss_weight=0.5", "dpo.preference_average_log_probs=true")
    assert loss(settings.dpo) == {"loss_type": ["sigmoid_norm", "sft"], "loss_weights": [1.0, 0.5]}
    build_dpo(office.store, "pairs", "s1")
    row = train_dpo(office.store, config(fresh_model, tmp_path / "r", "dpo.sft_loss_weight=0.5", "dpo.max_num_steps=1"))
    start = office.store.read("metrics", filter="run_id = 'prefer' and name = 'train/loss' and step = 1").to_pylist()
    assert row["step"] == 1 and start[0]["value"] > 0.6931 + 1


def test_without_a_reference_the_log_probabilities_themselves_are_compared(office, fresh_model, tmp_path) -> None:
    build_dpo(office.store, "pairs", "s1")
    free = ("dpo.reference_free=true", "dpo.max_num_steps=1")
    train_dpo(office.store, config(fresh_model, tmp_path, *free, "run=free"))
    train_dpo(office.store, config(fresh_model, tmp_path, *free, "run=mean", "dpo.preference_average_log_probs=true"))
    rows = office.store.read("metrics", filter="step = 1").to_pylist()
    first = {(row["run_id"], row["name"].removeprefix("train/")): row["value"] for row in rows}
    apart = first["free", "logps/chosen"] - first["free", "logps/rejected"]
    assert first["free", "rewards/margins"] == pytest.approx(0.1 * apart, rel=1e-3) and abs(apart) > 0.1
    assert first["free", "rewards/chosen"] == pytest.approx(0.1 * first["free", "logps/chosen"], rel=1e-3)
    assert first["mean", "loss"] == pytest.approx(0.6931, abs=0.05) and first["mean", "loss"] != first["free", "loss"]


@pytest.mark.parametrize(
    "options",
    [
        ("++trl.loss_type=[ipo]",),
        ("++trl.loss_type=[sigmoid_norm]",),
        ("++trl.loss_type=[sigmoid,sft]", "++trl.loss_weights=[1.0,0.5]"),
        ("++trl.loss_type=[robust]", "++trl.label_smoothing=0.1"),
        ("++trl.ld_alpha=0.5",),
    ],
    ids=lambda options: options[0],
)
def test_losses_of_trl_s_own_are_reached(office, fresh_model, tmp_path, options) -> None:
    build_dpo(office.store, "pairs", "s1")
    row = train_dpo(office.store, config(fresh_model, tmp_path, "dpo.max_num_steps=1", *options))
    loss_of = office.store.read("metrics", filter="name = 'train/loss' and step = 1").to_pylist()[0]["value"]
    plain = abs(loss_of - 0.6931) < 1e-3
    assert row["step"] == 1 and plain == ("sft" not in options[0] and "ipo" not in options[0])


def test_sides_sampled_after_other_tokens_are_rendered(office) -> None:
    from dataclasses import replace

    pair = pairs(office, "sampled")[0]
    other = replace(pair.rejected, prompt_ids=[5, *(pair.rejected.prompt_ids or [])])
    tokens = Tokenizing(office.chat, 512)
    sides = tokens.pair(replace(pair, rejected=other))
    assert sides is not None and sides[0][0].prompt_ids == sides[1][0].prompt_ids
    assert (tokens.check()["sampled"], tokens.check()["rendered"]) == (0, 2)
