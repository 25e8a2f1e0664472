"""Imported by every vLLM worker before its model loads: makes the weights of a CPU model replaceable.

The CPU backend repacks each Linear weight and frees the original, after which loading new weights either fails or silently
leaves wrong ones. Plain `F.linear` keeps the weights where they are. On a GPU nothing is patched.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
import vllm.model_executor.layers.utils  # noqa: F401  the module to patch, in case nothing has imported it yet
from vllm.lora.layers import BaseLayerWithLoRA
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.model_executor.layers.attention import MLAAttention
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
    # No adapter of ours is on the output layer, and vLLM's CPU code for one takes a row a request, which scoring (a row a prompt token) is not.
    setattr(PunicaWrapperCPU, "add_lora_logits", lambda self, y, *_, **__: y)  # noqa: B010


class WorkerExtension:
    """Mixed into vLLM's worker: methods that `collective_rpc` calls by name."""

    def rollhouse_load(self, files: list[str]) -> list[str]:
        """Copies the tensors of safetensors files into the running model; returns the parameters no tensor was for."""
        model = self.model_runner.get_model()  # type: ignore[attr-defined]
        with torch.no_grad(), _without_adapters(model):
            loaded = set(model.load_weights(_tensors(files)) or ())
            _prepare_again(model, self.model_config.dtype)  # type: ignore[attr-defined]
            named = [name for name, _ in model.named_parameters()]
        # The experts of a layer are reported under the name that they have in the layer, not in its part that holds them.
        return sorted(name for name in named if not {name, name.replace(_EXPERTS, "")} & loaded)


@contextmanager
def _without_adapters(model: torch.nn.Module) -> Iterator[None]:
    """An engine that takes adapters has them around its layers, whose weights then have other names: in the block the layers stand alone."""
    around = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, BaseLayerWithLoRA)
    ]
    for parent, name, child in around:
        setattr(parent, name, child.base_layer)
    try:
        yield
    finally:
        for parent, name, child in around:
            setattr(parent, name, child)


_EXPERTS = "routed_experts."


def _prepare_again(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """What vLLM makes of weights after it has loaded them and what a second loading leaves as it was, or as none of its kernels reads it.

    The kernels for experts read them in an order of their own; attention with a compressed cache keeps products of its projection.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        experts = getattr(getattr(method, "moe_kernel", None), "fused_experts", None)
        if experts is not None and current_platform.is_cpu():
            experts.process_weights_after_loading(module)
        elif experts is not None:
            method.process_weights_after_loading(module)  # type: ignore[union-attr]
    for module in model.modules():
        if isinstance(module, MLAAttention):
            module.process_weights_after_loading(dtype)


def _tensors(files: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in files:
        yield from read_weights(file).items()
