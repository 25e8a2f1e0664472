"""Checkpoints that also see: loaded whole and trained on text alone, or refused in one sentence before anything is opened."""

from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.models import check_text_model
from rollhouse.tests.random_model import byte_tokenizer
from rollhouse.tests.train.grpo.settings import learner_config
from rollhouse.tests.zoo.checks import make_samples
from rollhouse.train.config import LoraConfig
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.lora import adapter_layers
from rollhouse.train.offline import load_model
from safetensors import safe_open

TEXT: dict[str, Any] = {
    "vocab_size": 263,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": None,
}
SIGHT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "Gemma3ForConditionalGeneration": {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", **TEXT, "sliding_window": 64},
        "vision_config": {"model_type": "siglip_vision_model", **SIGHT},
        "mm_tokens_per_image": 4,
    },
    "Mistral3ForConditionalGeneration": {
        "model_type": "mistral3",
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {"model_type": "pixtral", **SIGHT, "head_dim": 16},
    },
    "Qwen3_5ForConditionalGeneration": {
        "model_type": "qwen3_5",
        "text_config": {**TEXT, **DELTA},
        "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random model of each."""
    import torch
    import transformers

    root, found = tmp_path_factory.mktemp("multimodal"), {}
    for kind, options in SHAPES.items():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(**options)
        model = getattr(transformers, kind)(config).float()
        found[kind] = root / kind
        model.save_pretrained(found[kind])
        byte_tokenizer().save_pretrained(found[kind])
    return found


def names(file: Path) -> set[str]:
    with safe_open(str(file), "pt") as opened:
        return set(opened.keys())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Mistral3ForConditionalGeneration", "transformers has no causal language model for the Mistral3"),
        ("Qwen3_5ForConditionalGeneration", r"loads the text part alone \(Qwen3_5ForCausalLM\)"),
    ],
)
def test_what_would_lose_a_part_is_refused(folders, kind, message) -> None:
    for opened in (check_text_model, TorchEngine, lambda folder: Learner(str(folder), learner_config())):
        with pytest.raises(ConfigError, match=message) as refused:
            opened(folders[kind])
        assert "\n" not in refused.value.message


def test_the_text_part_that_a_refusal_names_is_a_model(folders, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folders["Qwen3_5ForConditionalGeneration"]).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    check_text_model(tmp_path)
    Learner(str(tmp_path), learner_config()).save_weights(str(tmp_path / "pushed"))
    assert names(tmp_path / "pushed") == names(tmp_path / "model.safetensors")


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2), LoraConfig(rank=2, target_modules=["q_proj"])])
def test_a_whole_model_keeps_what_it_sees_with(folders, tmp_path, lora) -> None:
    folder = folders["Gemma3ForConditionalGeneration"]
    learner = Learner(str(folder), learner_config(lora=lora, lr=1e-2))
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    samples = make_samples()
    learner.step(samples, [list(range(len(samples)))])
    changed = {name for name, value in learner.model.state_dict().items() if not value.equal(before[name])}
    assert changed and all("language_model" in name or "lm_head" in name for name in changed)
    adapted = [name for name, _ in adapter_layers(learner.model)]
    assert bool(adapted) == (lora is not None) and all("language_model" in name for name in adapted)
    if lora is not None and lora.target_modules != "all-linear":
        assert len(adapted) == TEXT["num_hidden_layers"]
    learner.save_weights(str(tmp_path / "pushed"))
    learner.save_pretrained(str(tmp_path / "saved"))
    whole = names(folder / "model.safetensors")
    assert names(tmp_path / "pushed") == whole == names(tmp_path / "saved/model.safetensors")
    load_model(tmp_path / "saved")


def test_target_modules_that_only_the_tower_has_are_refused(folders) -> None:
    with pytest.raises(ConfigError, match="text part"):
        Learner(str(folders["Gemma3ForConditionalGeneration"]), learner_config(lora=LoraConfig(target_modules=["fc1"])))
