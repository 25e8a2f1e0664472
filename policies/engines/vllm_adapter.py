"""A low-rank adapter in a vLLM engine: pushed as one safetensors file beside the base model's weights, which stay as they are."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import EngineError, one_line
from ..adapter_folder import PREFIX, WEIGHTS
from .weight_file import read_weights

if TYPE_CHECKING:
    import torch

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM makes room for."""


def adapter_options(rank: int, count: int = 1) -> dict[str, Any] | None:
    """Arguments of an engine that takes so many adapters of this rank at once; None for a rank that no engine takes."""
    largest = next((most for most in RANKS if most >= rank), None)
    return None if largest is None else {"enable_lora": True, "max_lora_rank": largest, "max_loras": count}


def adapter_names(layer: str) -> tuple[str, str]:
    """Names of A [rank, in] and of the scaled B [out, rank] of a layer in an adapter's file."""
    return f"{PREFIX}{layer}.lora_A.weight", f"{PREFIX}{layer}.lora_B.weight"


def embedding_names(layer: str) -> tuple[str, str]:
    """As adapter_names, for embeddings: A is [rank, tokens]."""
    return f"{PREFIX}{layer}.lora_embedding_A", f"{PREFIX}{layer}.lora_embedding_B"


def is_adapter(tensors: Mapping[str, "torch.Tensor"]) -> bool:
    """Whether a file holds an adapter, not a model's weights."""
    return any(name.endswith(".lora_A.weight") for name in tensors)


def adapted_layer_names(tensors: Mapping[str, "torch.Tensor"]) -> list[str]:
    """The last names of the layers that an adapter's file has tensors of."""
    names = [name.removeprefix(PREFIX) for name in tensors]
    return sorted({name.rpartition(".lora_")[0].rpartition(".")[2] for name in names if ".lora_" in name})


def _outside(layers: Sequence[str]) -> str | None:
    """A layer whose adapter the engine would pass by (plain_linear); None without one."""
    return next((name for name in layers if name in ("lm_head", "embed_tokens")), None)


class EngineAdapter:
    """The one adapter of an engine. Files of later pushes take its place.

    Attributes:
        request: What every request is made with.
    """

    def __init__(self) -> None:
        from vllm.lora.request import LoRARequest

        self._folder = Path(tempfile.mkdtemp(prefix="rollhouse-adapter-"))
        self.request: Any = LoRARequest("policy", 1, str(self._folder), load_inplace=True)

    def load(self, engine: Any, file: str) -> None:
        """Loads an adapter's file. Raises EngineError, with what was loaded before, where the engine takes no adapters or not this one."""
        tensors = read_weights(file)
        first = [name for name in tensors if name.endswith(".lora_A.weight")]
        rank = tensors[first[0]].shape[0]
        layers = adapted_layer_names(tensors)
        outside = _outside(layers)
        if outside:
            raise _refused(f"it is on {outside}")
        # B is scaled already.
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": layers, "bias": "none"}
        (self._folder / "adapter_config.json").write_text(json.dumps(config))
        link, new = self._folder / "adapter_model.safetensors", self._folder / "new"
        os.symlink(os.path.abspath(file), new)
        os.replace(new, link)
        try:
            taken = engine.add_lora(self.request)
        except Exception as error:
            raise _refused(one_line(error)) from error
        if not taken:
            raise _refused("it is not enabled")

    def remove(self, engine: Any) -> None:
        """Takes the adapter away; the engine computes the base model."""
        engine.remove_lora(self.request.lora_int_id)
        self.close()

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


class NamedAdapters:
    """Adapters that requests choose by number, beside the one that pushes replace. A number is not used twice, so the cached keys and values of one are never another's."""

    def __init__(self) -> None:
        self._requests: dict[int, Any] = {}

    def add(self, engine: Any, folder: str) -> int:
        """Loads a folder in peft's layout and returns its number. Raises EngineError where the engine does not take it."""
        from vllm.lora.request import LoRARequest

        outside = _outside(adapted_layer_names(read_weights(Path(folder) / WEIGHTS)))
        if outside:
            raise _not_served(folder, f"it is on {outside}")
        number = len(self._requests) + 2  # 1 is the adapter of pushes
        request = LoRARequest(f"adapter-{number}", number, folder)
        try:
            taken = engine.add_lora(request)
        except Exception as error:
            taken, why = False, one_line(error)
        else:
            why = "adapters are not enabled"
        if not taken:
            raise _not_served(folder, why)
        self._requests[number] = request
        return number

    def request(self, number: int) -> Any:
        """vLLM's request of a number."""
        return self._requests[number]


def _not_served(folder: str, why: str) -> EngineError:
    return EngineError(f"vLLM does not take the adapter in {folder}: {why.rstrip('.')}.", "Serve the merged checkpoint with --model.")  # fmt: skip


def _refused(why: str) -> EngineError:
    return EngineError(
        f"The engine does not take the adapter: {why.rstrip('.')}.", "Set policy.generation.adapters=merged."
    )
