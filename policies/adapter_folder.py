"""Folders of low-rank adapters in peft's layout: `adapter_config.json` and `adapter_model.safetensors`.

`base.json` beside them names the base model and has the hash of its weights; a folder that other programs wrote has none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from .models import tensor_shapes, weights_hash

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
FOLDER = "adapter"
"""The folder in a checkpoint that its adapters lie in."""
PREFIX = "base_model.model."
"""peft's, before the name of a layer."""
_A, _B, _EMBEDDING_A = ".lora_A.weight", ".lora_B.weight", ".lora_embedding_A"


@dataclass(frozen=True)
class NamedAdapter:
    """An adapter that is served beside its base model.

    Attributes:
        name: The model's name for clients.
        folder: In peft's layout.
        policy_id: Of the rows that it samples: the weights hash of its checkpoint, else that of the adapter's own tensors.
    """

    name: str
    folder: Path
    policy_id: str


def adapter_config(layers: Sequence[str], rank: int, base: str) -> dict[str, Any]:
    """peft's configuration of an adapter of these layers (full names), whose B is scaled already."""
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "lora_alpha": rank,
        "target_modules": list(layers), "lora_dropout": 0.0, "bias": "none", "inference_mode": True,
    }  # fmt: skip


def finish_adapter(folder: Path, base: str, base_hash: str | None) -> None:
    """Writes what belongs to the tensors of an adapter, which lie in the folder: peft's configuration, and the base model's name and weights hash."""
    shapes = tensor_shapes(folder / WEIGHTS)
    firsts = [name for name in shapes if name.endswith((_A, _EMBEDDING_A))]
    layers = [name.removeprefix(PREFIX).removesuffix(_A).removesuffix(_EMBEDDING_A) for name in firsts]
    rank = shapes[firsts[0]][0]
    (folder / CONFIG).write_text(json.dumps(adapter_config(sorted(layers), rank, base), indent=2) + "\n")
    (folder / BASE).write_text(json.dumps({"model": base, "weights_hash": base_hash}, indent=2) + "\n")


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder is in peft's layout."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def adapter_rank(folder: Path) -> int:
    """The largest rank of an adapter's layers. Raises ConfigError for a folder that holds no low-rank adapter."""
    ranks = [shape[0] for name, shape in tensor_shapes(folder / WEIGHTS).items() if name.endswith(_A)]
    if not ranks:
        raise ConfigError(f"{folder} holds no low-rank adapter.", f"Name a folder with {CONFIG} and {WEIGHTS} of peft's LoRA.")  # fmt: skip
    return max(ranks)


def refuse_other_base(adapter: NamedAdapter, model: Path) -> None:
    """Raises ConfigError for an adapter that was trained on another model than this folder's.

    A folder with `base.json` is compared by the hash of the base's weights; any other by its layers, whose shapes must be those of the model.
    """
    file = adapter.folder / BASE
    base: Mapping[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if base.get("weights_hash"):
        if (found := weights_hash(model)) != base["weights_hash"]:
            raise ConfigError(
                f"The adapter {adapter.name} was trained on {base['model']} (weights {base['weights_hash']}), not on {model} (weights {found}).",
                "Serve the model that it was trained on with --model.",
            )
        return
    shapes = tensor_shapes(model)
    for name, shape in tensor_shapes(adapter.folder / WEIGHTS).items():
        layer = name.removeprefix(PREFIX).removesuffix(_A).removesuffix(_B)
        weight = shapes.get(f"{layer}.weight")
        side = -1 if name.endswith(_A) else 0
        if weight is None or shape[side] != weight[side]:
            why = "has no such layer" if weight is None else f"has {list(weight)} there"
            raise ConfigError(
                f"The adapter {adapter.name} does not fit {model}: its {name} is {list(shape)}, and the model {why}.",
                "Serve the model that it was trained on with --model.",
            )
