"""A checkpoint is the model that was trained, with adapters on the embeddings too; otherwise it is refused."""

import json
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, TrainingError
from rollhouse.store.runs import get_run
from rollhouse.train import saved
from rollhouse.train.offline import load_model
from rollhouse.train.saved import refuse_other_model
from rollhouse.train.sft import train_sft
from rollhouse.transform.build import build_sft

from .test_sft import config

LORA = ("policy.lora.rank=4", "policy.lora.alpha=32", "sft.max_num_steps=2", "policy.optimizer.lr=5e-3")


def test_adapters_on_tied_embeddings_are_saved_as_trained(office, fresh_model, tmp_path) -> None:
    import torch
    from peft import PeftModel

    build_sft(office.store, "demos", "s1")
    row = train_sft(office.store, config(fresh_model, tmp_path, *LORA, "policy.lora.target_modules=[q_proj,embed_tokens]"))  # fmt: skip
    assert json.loads((fresh_model / "config.json").read_text())["tie_word_embeddings"] is True
    assert json.loads((Path(row["path"]) / "config.json").read_text())["tie_word_embeddings"] is False
    model = load_model(Path(row["path"]))
    assert not model.get_input_embeddings().weight.equal(model.get_output_embeddings().weight)
    assert model.get_output_embeddings().weight.equal(load_model(fresh_model).get_output_embeddings().weight)
    ids = torch.arange(3, 40)[None]
    adapted = PeftModel.from_pretrained(load_model(fresh_model), Path(row["path"]) / "adapter")
    torch.testing.assert_close(adapted(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="output layer"):
        train_sft(office.store, config(fresh_model, tmp_path, *LORA, "run=head", "policy.lora.target_modules=[lm_head]"))  # fmt: skip


def test_another_model_than_the_trained_one_is_not_saved(office, fresh_model, tmp_path, monkeypatch) -> None:
    import torch

    model = load_model(fresh_model)
    refuse_other_model(model, fresh_model, range(3, 60))
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.5)
    with pytest.raises(TrainingError, match="is not the trained model"):
        refuse_other_model(model, fresh_model, range(3, 60))
    # Through a run: no checkpoint is left.
    build_sft(office.store, "demos", "s1")
    monkeypatch.setattr(saved, "_EXACT", -1.0)
    with pytest.raises(TrainingError, match="is not the trained model"):
        train_sft(office.store, config(fresh_model, tmp_path, "sft.max_num_steps=1"))
    assert office.store.read("checkpoints").num_rows == 0


def test_weights_that_are_not_finite_are_not_saved(office, fresh_model, tmp_path) -> None:
    build_sft(office.store, "demos", "s1")
    with pytest.raises(TrainingError, match=r"\d+ of \d+ weight tensors are not finite after step 1"):
        train_sft(office.store, config(fresh_model, tmp_path, "sft.max_num_steps=1", "policy.optimizer.lr=1e39"))
    assert get_run(office.store, "learn")["status"] == "failed" and office.store.read("checkpoints").num_rows == 0
