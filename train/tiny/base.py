"""The tiny base policy as a model folder, from the shipped weights or, when its recipe has changed, by training."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...policies.packaged import cache_folder
from .model import build_config, weights_of
from .recipe import RECIPE, Progress, Recipe, recipe_hash, train_base
from .tokenizer import build_tokenizer

SHIPPED = Path(__file__).with_name("base.safetensors")


def base_policy(cache_dir: str | Path | None = None, progress: Progress | None = None, recipe: Recipe = RECIPE) -> Path:
    """A model folder (config, float32 weights, tokenizer, chat template) that transformers and vLLM load.

    The folder is cached under the hash of the recipe and made once: from the package's half-precision file in a second or two, or,
    when that file belongs to another recipe, by minutes of training, which calls `progress(done, total, note)` after every step.
    """
    tokenizer = build_tokenizer()
    key = recipe_hash(recipe, tokenizer=tokenizer)
    folder = Path(cache_dir or cache_folder()) / f"tiny-base-{key}"
    if not folder.exists():
        weights = _shipped() if shipped_hash() == key else weights_of(train_base(tokenizer, recipe, progress))
        write_folder(folder, weights, tokenizer)
    return folder


def write_folder(folder: Path, weights: dict[str, Any], tokenizer: Any) -> None:
    """Writes a model folder under a temporary name and renames it, so that a folder of that name is always complete."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    build_config(len(tokenizer)).save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    save_file(weights, scratch / "model.safetensors", metadata={"format": "pt"})
    scratch.chmod(0o755)
    try:
        scratch.rename(folder)
    except OSError:
        # Another process made it meanwhile.
        shutil.rmtree(scratch)
        if not folder.exists():
            raise


def shipped_hash() -> str | None:
    """The recipe hash in the package's weights file; None when there is no file."""
    from safetensors import safe_open

    if not SHIPPED.exists():
        return None
    with safe_open(SHIPPED, "pt") as file:
        return (file.metadata() or {}).get("recipe_hash")


def _shipped() -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(SHIPPED).items()}
