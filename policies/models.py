"""Model folders: their files, the hash of their weights, and their tokenizer."""

import hashlib
import json
import os
import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError
from ..base.packages import need
from ..store.ids import canonical_json
from ..store.tokenizer_states import hash_of, offer, state_of
from .families import whole_template
from .hub import hub_folder
from .packaged import PREFIX, packaged_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Fields of config.json that differ between saves of one architecture.
_NOT_ARCHITECTURE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def read_file(path: str, option: str) -> bytes:
    """The bytes of a file that an option names. Raises ConfigError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror}.", "Name a file that exists.") from error


def model_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a model: the folder of that name, `pypi:NAME` from a package index, or the hub's `OWNER/NAME` or `OWNER/NAME@REVISION`.

    Raises ConfigError and EngineError as `hub.hub_folder` and `packaged.packaged_folder` do, and ConfigError for a name that is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if str(name).startswith(PREFIX):
        return packaged_folder(str(name).removeprefix(PREFIX))
    found = _HUB_NAME.fullmatch(str(name))
    if found is None or str(name).startswith("."):
        raise ConfigError(
            f"There is no model {str(name)!r}: it is neither a folder nor a name on the hub (OWNER/NAME).",
            "Name a model folder, a hub name or pypi:NAME.",
        )
    return hub_folder(found[1], revision=found[2])


def check_model_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, if an engine can load it. Raises ConfigError that names the missing file."""
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(
            f"There is no model folder {folder}.", "Name a folder with config.json and safetensors files."
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} has no config.json.", "Name a folder written by save_pretrained or by training.")
    if not weight_files(folder):
        raise ConfigError(
            f"{folder} has no weights (*.safetensors).",
            "Copy the weights there, or save the model again with save_pretrained.",
        )
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        raise ConfigError(f"{folder} has no tokenizer.", "Copy tokenizer.json and tokenizer_config.json there.")
    return folder


def weight_files(path: str | os.PathLike[str]) -> list[Path]:
    """The safetensors files of a folder, sorted; for a file, the file."""
    path = Path(path)
    return [path] if path.is_file() else sorted(path.glob("*.safetensors"))


def weights_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 over names, shapes and bytes of the tensors in name order, 32 hex digits; how they are split into files makes no difference."""
    where = _tensors(path)
    if not where:
        raise ConfigError(f"{path} has no weights.", "Name a model folder with *.safetensors files.")
    digest = hashlib.sha256()
    for name in sorted(where):
        file, data_start, entry = where[name]
        digest.update(f"{name}\0{entry['shape']}\0".encode())
        _hash_bytes(digest, file, data_start + entry["data_offsets"][0], data_start + entry["data_offsets"][1])
    return digest.hexdigest()[:32]


def _tensors(path: str | os.PathLike[str]) -> dict[str, tuple[Path, int, dict[str, Any]]]:
    """Of each tensor of a folder or file: its file, where that file's data begins, and its entry in the header."""
    where = {}
    for file in weight_files(path):
        with open(file, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                where[name] = (file, 8 + size, entry)
    return where


def tensor_dtypes(path: str | os.PathLike[str]) -> dict[str, str]:
    """The dtype of each tensor of a model folder by safetensors' names (`F32`, `BF16`, …)."""
    return {name: entry["dtype"] for name, (_, _, entry) in _tensors(path).items()}


def tensor_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a folder or file."""
    return {name: tuple(entry["shape"]) for name, (_, _, entry) in _tensors(path).items()}


def _hash_bytes(digest: Any, file: Path, start: int, end: int) -> None:
    with open(file, "rb") as handle:
        handle.seek(start)
        while start < end:
            block = handle.read(min(1 << 22, end - start))
            digest.update(block)
            start += len(block)


def architecture_hash(folder: str | os.PathLike[str]) -> str:
    """Equal for two folders whose weights fit into the same running engine; 16 hex digits."""
    config = json.loads((Path(folder) / "config.json").read_text())
    for name in _NOT_ARCHITECTURE:
        config.pop(name, None)
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:16]


def model_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The folder's config.json, of a model that also sees or hears the part of its text model."""
    config = json.loads((Path(folder) / "config.json").read_text())
    return config | config["text_config"] if isinstance(config.get("text_config"), dict) else config


def model_type(folder: str | os.PathLike[str]) -> str | None:
    """The architecture by transformers' name; None for a folder without config.json."""
    return model_config(folder).get("model_type") if (Path(folder) / "config.json").exists() else None


_OTHER_PARTS = ("vision_config", "audio_config")
"""Sections of the configuration of a model that also sees or hears."""


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a model that also sees or hears."""
    return any(config.get(name) for name in _OTHER_PARTS)


def check_text_model(folder: str | os.PathLike[str]) -> None:
    """Raises ConfigError for a folder that is not loaded as a causal language model as a whole: an architecture that transformers has none of, or a
    multimodal one whose text part alone would be loaded. A multimodal model that passes is loaded whole, and used with text alone.
    """
    transformers = need("transformers")
    config = json.loads((Path(folder) / "config.json").read_text())
    kind = (config.get("architectures") or [config.get("model_type")])[0]
    known, own = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.AutoConfig.from_pretrained(str(folder))
    if type(own) not in known:
        raise ConfigError(
            f"transformers has no causal language model for the {kind} in {folder}.",
            "Use a text model of the family.",
        )
    if is_multimodal(config) and known[type(own)].__name__ != kind:
        raise ConfigError(
            f"{folder} holds a {kind}, of which transformers loads the text part alone ({known[type(own)].__name__}).",
            "Save the text part as a folder of its own (AutoModelForCausalLM.from_pretrained, save_pretrained, and the tokenizer) and use that.",
        )


def context_length(folder: str | os.PathLike[str]) -> int | None:
    """The most tokens of a sequence by the model's configuration; None when it states none."""
    config = model_config(folder)
    return config.get("max_position_embeddings") or config.get("n_positions")


def load_tokenizer(folder: str | os.PathLike[str], template: str | None = None) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model folder, with the chat template of the file `template` if given.

    Raises ConfigError when there is no chat template.
    """
    tokenizer = need("transformers").AutoTokenizer.from_pretrained(str(folder))
    if template is not None:
        tokenizer.chat_template = read_file(template, "--chat-template").decode()
    elif isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = whole_template(tokenizer.chat_template, folder)
    if not tokenizer.chat_template:
        raise ConfigError(f"The tokenizer in {folder} has no chat template.", "Name one with --chat-template FILE.")
    return tokenizer


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash of how text becomes tokens, 16 hex digits; padding and truncation, which trainers change, do not count.

    A store that receives tokens of it in this process keeps it.
    """
    state = _fast_state(tokenizer)
    known = hash_of(canonical_json({"vocab": tokenizer.get_vocab()}) if state is None else state)
    held = weakref.ref(tokenizer)
    offer(known, lambda: _fast_state(held()))
    return known


def _fast_state(tokenizer: "PreTrainedTokenizerBase | None") -> str | None:
    """What a store keeps of it; None for one that is written in Python, whose text only its code makes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else state_of(backend)


def template_hash(tokenizer: "PreTrainedTokenizerBase", settings: Mapping[str, Any] | None = None) -> str:
    """Hash of the chat template and its settings (empty or None is the default), 16 hex digits."""
    what = [tokenizer.chat_template, dict(settings)] if settings else tokenizer.chat_template
    return hashlib.sha256(canonical_json(what).encode()).hexdigest()[:16]


def stop_token_ids(folder: str | os.PathLike[str], tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The tokens that end a turn: the tokenizer's end token first, then those of generation_config.json."""
    found: list[Any] = [tokenizer.eos_token_id]
    config = Path(folder) / "generation_config.json"
    if config.is_file():
        named = json.loads(config.read_text()).get("eos_token_id")
        found += named if isinstance(named, list) else [named]
    return tuple(dict.fromkeys(int(token) for token in found if token is not None))
