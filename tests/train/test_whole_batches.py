"""No loss and no metric depends on how a batch is divided: over micro-batches, and over processes in the system tests."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.policies.models import weights_hash
from rollhouse.train.dpo import train_dpo
from rollhouse.train.sft import train_sft
from rollhouse.train.whole_batches import FilledOrder
from rollhouse.transform.build import build_dpo, build_sft
from rollhouse.transform.options import SftOptions

from . import test_dpo, test_sft

TIMES = ("runtime", "per_second")
STILL = ("policy.optimizer.lr=1e-12", "validation.share=0.4", "validation.period=1")
SFT = ("sft.max_num_epochs=1", "policy.train_global_batch_size=4")
DPO = ("dpo.max_num_steps=2", "dpo.sft_loss_weight=0.5", "policy.train_global_batch_size=4")


def numbers(store, run: str) -> dict[tuple[int, str], float]:
    rows = store.read("metrics", filter=f"run_id = '{run}'").to_pylist()
    return {(row["step"], row["name"]): row["value"] for row in rows if not row["name"].endswith(TIMES)}


def same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    assert found == {key: pytest.approx(value, rel=2e-3, abs=1e-6) for key, value in wanted.items()}


@pytest.mark.system
def test_sft_by_micro_batches(office, fresh_model, tmp_path) -> None:
    """Rows of unequal lengths, the last batch incomplete."""
    build_sft(office.store, "demos", "s1", SftOptions(require_reward=False, min_reward=0, dedupe=False))
    for micro in (4, 2, 1):
        settings = [*STILL, *SFT, f"policy.train_micro_batch_size={micro}", f"run=micro{micro}"]
        train_sft(office.store, test_sft.config(fresh_model, tmp_path, *[s for s in settings if "max_num_steps" not in s], "sft.max_num_steps=null"))  # fmt: skip
    whole = numbers(office.store, "micro4")
    assert whole[1, "train/num_tokens"] > 0 and (2, "val/loss") in whole
    for micro in (2, 1):
        same(numbers(office.store, f"micro{micro}"), whole)


def test_val_loss_is_the_mean_over_tokens(office, fresh_model, tmp_path) -> None:
    import torch
    from rollhouse.policies.chat import ChatFormat
    from rollhouse.train.offline import load_model
    from rollhouse.train.row_files import is_held_out
    from rollhouse.train.tokens import Tokenizing
    from rollhouse.transform.materialize import sft_rows

    dataset = build_sft(office.store, "demos", "s1")
    train_sft(office.store, test_sft.config(fresh_model, tmp_path, *STILL, "sft.max_num_steps=1", "policy.train_micro_batch_size=2"))  # fmt: skip
    model, tokens = load_model(fresh_model).eval(), Tokenizing(ChatFormat.of(fresh_model), 512)
    total, n, trained = 0.0, 0, 0
    for each in sft_rows(office.store, dataset):
        for row in tokens.rows(each):
            if not is_held_out(each.task_id, 0.4):
                trained += len(row)
            else:
                ids, mask = torch.tensor(row.prompt_ids + row.response_ids), torch.tensor(row.mask, dtype=torch.bool)
                with torch.no_grad():
                    logps = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
                total, n = total - float(logps[-len(mask) :][mask].sum()), n + int(mask.sum())
    found = numbers(office.store, "learn")
    assert found[1, "val/loss"] == pytest.approx(total / n, rel=1e-4)
    assert found[1, "train/num_tokens"] == trained


@pytest.mark.system
def test_dpo_by_micro_batches(office, fresh_model, tmp_path) -> None:
    build_dpo(office.store, "pairs", "s1")
    for micro in (4, 2, 1):
        settings = [*STILL, *DPO, f"policy.train_micro_batch_size={micro}", f"run=micro{micro}"]
        train_dpo(office.store, test_dpo.config(fresh_model, tmp_path, *settings))
    whole = numbers(office.store, "micro4")
    assert {(2, "val/loss"), (2, "train/grad_norm"), (2, "train/rewards/accuracies")} <= whole.keys()
    for micro in (2, 1):
        same(numbers(office.store, f"micro{micro}"), whole)


def test_a_loss_that_sorts_a_batch_is_refused_where_the_batch_is_divided(office, fresh_model, tmp_path) -> None:
    build_dpo(office.store, "pairs", "s1")
    with pytest.raises(ConfigError, match="aot sorts the pairs"):
        train_dpo(office.store, test_dpo.config(fresh_model, tmp_path, "++trl.loss_type=[aot]"))


def test_an_order_is_filled_to_whole_batches_and_each_epoch_is_another() -> None:
    order = FilledOrder(5, 4, seed=0)
    first, second = list(order), list(order)
    assert sorted(first) == list(range(8)) and first[5:] == second[5:] == [5, 6, 7]
    assert sorted(first[:5]) == sorted(second[:5]) and first != second
    order.set_epoch(0)
    assert list(order) == first and list(FilledOrder(5, 4, seed=None)) == list(range(8))


@pytest.mark.system
@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rollhouse.cli.main"],
        ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "rollhouse.cli.main"],
    ],
    ids=["torchrun", "accelerate"],
)  # fmt: skip
def test_two_processes_train_what_one_does(office, fresh_model, tmp_path, kind, launcher) -> None:
    """Five rows to train on, so that the last batch is incomplete and one process has a row less."""
    train: Any = train_sft if kind == "sft" else train_dpo
    settings = SFT if kind == "sft" else DPO
    build_sft(office.store, "demos", "s1")
    build_dpo(office.store, "pairs", "s1")
    module = test_sft if kind == "sft" else test_dpo
    given = [*STILL, *settings, "policy.train_micro_batch_size=2", "policy.device=cpu", f"{kind}.max_num_steps=2"]
    train(office.store, module.config(fresh_model, tmp_path, *given, "run=alone"))
    named = [f"dataset={'demos' if kind == 'sft' else 'pairs'}", f"policy.model_name={fresh_model}", f"checkpointing.checkpoint_dir={tmp_path}"]  # fmt: skip
    command = [sys.executable, *launcher, "train", kind, "--store", str(office.store.uri), *named, *given, "run=two"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    same(numbers(office.store, "two"), numbers(office.store, "alone"))
    (row,) = office.store.read("checkpoints", filter="run_id = 'two'").to_pylist()
    assert row["weights_hash"] == weights_hash(row["path"]) and "val/loss" in json.loads(row["metrics"])
