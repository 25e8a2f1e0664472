"""All tensors of a model in training, as a model folder holds them: adapters merged, buffers included, under the folder's names.

transformers keeps some weights in another form than model folders do (the experts of a layer as one tensor, other prefixes). What leaves a trainer, to an
engine or to a checkpoint, has the folder's names and shapes: transformers and vLLM load those.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.errors import TrainingError
from ..policies.adapter_folder import FOLDER, WEIGHTS
from ..policies.engines.vllm_adapter import adapter_names, embedding_names
from ..policies.engines.weight_file import read_weights, torch_dtype
from ..policies.models import tensor_dtypes, weight_files
from .lora import ADAPTER, adapter_layers

SAVED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of a folder that its checkpoints keep; others (of quantised models) become float32."""


def own_weights(model: Any, whole: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Parameters with the adapters added, and persistent buffers, under the model's own names; a tied weight is there once. The model is left as it is.

    Args:
        whole: Gives a tensor in one piece; on several ranks a collective call.
    """
    layers = dict(adapter_layers(model))
    found = {}
    # named_parameters lists a shared tensor under its first name only, which is how engines expect tied embeddings.
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".base_layer.")
        if ".lora_A." in name or ".lora_B." in name:
            continue
        weight = whole(parameter.detach())
        if kind == "weight":
            layer = layers[owner]
            a, b = (whole(part[ADAPTER].weight.detach()) for part in (layer.lora_A, layer.lora_B))
            delta = (b @ a).T if layer.fan_in_fan_out else b @ a
            weight = weight + delta * layer.scaling[ADAPTER]
        found[f"{owner}.{kind}" if owner else name] = weight
    return found | {name: whole(buffer.detach()) for name, buffer in persistent_buffers(model).items()}


def own_adapters(model: Any, whole: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A and the scaled B of each adapter, under peft's names, those on embeddings too; `whole` as in own_weights."""
    found = {}
    for layer, adapted in adapter_layers(model):
        embeds = ADAPTER not in adapted.lora_A
        parts = (adapted.lora_embedding_A, adapted.lora_embedding_B) if embeds else (adapted.lora_A, adapted.lora_B)
        tensors = [part[ADAPTER] if embeds else part[ADAPTER].weight for part in parts]
        a, b = (whole(tensor.detach()) for tensor in tensors)
        name_a, name_b = embedding_names(layer) if embeds else adapter_names(layer)
        found |= {name_a: a, name_b: b * adapted.scaling[ADAPTER]}
    return found


def write_adapters(folder: str | Path, adapters: Mapping[str, Tensor]) -> None:
    """Writes `own_adapters` to the folder `adapter` of a checkpoint that is being saved."""
    from safetensors.torch import save_file

    place = Path(folder) / FOLDER
    place.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in adapters.items()}, place / WEIGHTS, {"format": "pt"})


def persistent_buffers(model: Any) -> dict[str, Tensor]:
    """The buffers that belong to a saved model, by name, such as the biases of a router."""
    found = {}
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def folder_weights(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`own_weights` under the names and in the shapes of a model folder."""
    from transformers.core_model_loading import revert_weight_conversion

    left_out = set(model._keys_to_ignore_on_save or ())
    return revert_weight_conversion(model, {name: tensor for name, tensor in weights.items() if name not in left_out})


def is_converted(model: Any) -> bool:
    """Whether the model's own tensors differ in name or shape from those of its folder."""
    own = own_weights(model, lambda tensor: torch.empty_like(tensor, device="meta"))
    saved = folder_weights(model, own)
    return {name: tensor.shape for name, tensor in own.items()} != {name: t.shape for name, t in saved.items()}


class FolderDtypes:
    """The dtypes of a model folder's tensors, for checkpoints that are as large as what they were trained from."""

    def __init__(self, folder: str | Path) -> None:
        found = {name: torch_dtype(code) for name, code in tensor_dtypes(folder).items()}
        self._by_name = {name: dtype for name, dtype in found.items() if dtype in SAVED_DTYPES}
        ranked = Counter(self._by_name.values()).most_common(1)
        self._most = ranked[0][0] if ranked else torch.float32
        config = json.loads((Path(folder) / "config.json").read_text())
        self._config = {name: config[name] for name in ("dtype", "torch_dtype") if name in config}

    def cast(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of `folder_weights` in their dtypes there; those of other names in the folder's commonest."""
        return {
            name: tensor.to(self._by_name.get(name, self._most)) if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }

    def kept(self) -> set[str]:
        """Names of tensors that are float32 in a folder of another dtype: rounding them changes the model (the bias of a router)."""
        if self._most == torch.float32:
            return set()
        return {name for name, dtype in self._by_name.items() if dtype == torch.float32}

    def write_config(self, folder: Path) -> None:
        """Names the dtype in the config.json of a folder that was written."""
        file = folder / "config.json"
        config = json.loads(file.read_text())
        config.pop("dtype", None)
        config |= self._config or {"dtype": str(self._most).removeprefix("torch.")}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_folder(model: Any, weights: Mapping[str, Tensor], dtypes: FolderDtypes, folder: str | Path) -> None:
    """Writes config, generation config and `own_weights` of a model as a model folder, and reads it again.

    Raises TrainingError where the folder does not hold these tensors.
    """
    saved = dtypes.cast(folder_weights(model, weights))
    # The dtypes are those of the folder, so the tensors are converted here and not again by transformers.
    model.save_pretrained(folder, state_dict=dict(saved), save_original_format=False)
    dtypes.write_config(Path(folder))
    refuse_other_tensors(folder, saved)


class TrainedModel:
    """A transformers model without adapters, saved as `write_folder` does."""

    def __init__(self, model: Any, started_from: str | Path, adapted: Any = None) -> None:
        """`started_from` is the folder whose dtypes its checkpoints have; `adapted` the model before its adapters were merged, where those are saved too."""
        self._model, self._dtypes, self._adapted = model, FolderDtypes(started_from), adapted

    def save_pretrained(self, folder: str | Path) -> None:
        """Raises TrainingError where the folder does not hold the model's tensors afterwards."""
        write_folder(self._model, own_weights(self._model, lambda tensor: tensor), self._dtypes, folder)
        if self._adapted is not None:
            write_adapters(folder, own_adapters(self._adapted, lambda tensor: tensor))


def refuse_other_tensors(folder: str | Path, weights: Mapping[str, Tensor]) -> None:
    """Raises TrainingError where a folder's tensors differ from these in name, shape, dtype or a single bit."""
    missing = dict(weights)
    for file in weight_files(folder):
        for name, written in read_weights(file).items():
            ours = missing.pop(name, None)
            if ours is None or not _same_bits(ours, written):
                raise _unequal(
                    folder, name, "differs from the learner's" if ours is not None else "is none of the learner's"
                )
    for name in missing:
        raise _unequal(folder, name, "is missing")


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.numel() == 0:
        return True
    return torch.equal(*(part.contiguous().reshape(-1).view(torch.uint8) for part in (one.cpu(), other)))


def _unequal(folder: str | Path, name: str, why: str) -> TrainingError:
    return TrainingError(
        f"The checkpoint in {folder} is not the trained model: its tensor {name} {why}.",
        "Check the disk, and start the same command again to resume; if it fails again, report a bug.",
    )
