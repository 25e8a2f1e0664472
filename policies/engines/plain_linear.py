"""Imported by every vLLM worker before its model loads: makes the weights of a CPU model replaceable.

The CPU backend repacks each Linear weight and frees the original, after which loading new weights either fails or silently
leaves wrong ones. Plain `F.linear` keeps the weights where they are. On a GPU nothing is patched.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
import vllm.model_executor.layers.utils  # noqa: F401  the module to patch, in case nothing has imported it yet
from vllm.platforms import current_platform

from . import seeded_sampling  # noqa: F401  its patch
from .weight_file import read_weights

_DISPATCH = "dispatch_cpu_unquantized_gemm"


def _plain(layer: Any, remove_weight: bool) -> None:
    layer.cpu_linear = F.linear


if current_platform.is_cpu():
    for _module in list(sys.modules.values()):
        if getattr(_module, "__name__", "").startswith("vllm.") and hasattr(_module, _DISPATCH):
            setattr(_module, _DISPATCH, _plain)


class WorkerExtension:
    """Mixed into vLLM's worker: methods that `collective_rpc` calls by name."""

    def rollhouse_load(self, files: list[str]) -> list[str]:
        """Copies the tensors of safetensors files into the running model; returns the parameters no tensor was for."""
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        with torch.no_grad():
            loaded = model.load_weights(_tensors(files))
        return sorted({name for name, _ in model.named_parameters()} - set(loaded or ()))


def _tensors(files: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in files:
        yield from read_weights(file).items()
