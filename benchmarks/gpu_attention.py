"""The attention of gpu.py: rows that share a prompt, by the learner's kernel calls, by FlexAttention, by FlashAttention and by a sequence a row."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from gpu_setting import SHAPES, Setting, cell
from rollhouse.train.grpo.learner.layout import attention, find_answers
from torch import Tensor

Row = dict[str, Any]


def measure_attention(setting: Setting, rows: list[Row]) -> None:
    """Forward and backward of one layer's attention over one group of four answers, half of a sequence its prompt, in bfloat16 (float32 on a CPU)."""
    for length in (96,) if setting.tiny else (2048, 8192, 16_384):
        for name, kernel in KERNELS.items():
            row: Row = {"shape": setting.small(), "tokens a sequence": length, "attention": name}
            with cell(setting, rows, row, 0 if setting.tiny else 8) as runs:
                if not runs:
                    continue
                try:
                    work = kernel(setting, length)
                    row["ms"] = 1e3 * setting.seconds(work, rounds=3)
                except (ImportError, NotImplementedError) as error:
                    row["not run"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"


def tensors(setting: Setting, rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query [R, H, S, D], key and value [R, Hkv, S, D] with gradient."""
    s = SHAPES[setting.small()]
    dtype = torch.bfloat16 if setting.device == "cuda" else torch.float32
    heads = (s["num_attention_heads"], s["num_key_value_heads"], s["num_key_value_heads"])
    made = [
        torch.randn(rows, n, length, s["head_dim"], device=setting.device, dtype=dtype, requires_grad=True)
        for n in heads
    ]
    return made[0], made[1], made[2]


def repeated(query: Tensor, key: Tensor) -> Tensor:
    """Key or value with a head for each of the query's."""
    return key.repeat_interleave(query.shape[1] // key.shape[1], 1)


def shared(setting: Setting, length: int) -> Callable[[], None]:
    """The learner's."""
    half = length // 2
    width = half + 4 * half
    answers = find_answers([(0, half, half + i * half, half + (i + 1) * half) for i in range(4)], width)
    assert answers is not None
    answers = answers.to(setting.device)
    query, key, value = tensors(setting, 1, width)

    def work() -> None:
        found, _ = attention(None, query, key, value, None, answers)
        found.sum().backward()

    return work


def flex(setting: Setting, length: int) -> Callable[[], None]:
    """FlexAttention, compiled, with the mask of the same row."""
    if setting.device != "cuda":
        raise NotImplementedError("FlexAttention has no backward pass on a CPU")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    half = length // 2
    width = half + 4 * half

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & ((k < half) | (k // half == q // half))

    mask = create_block_mask(sees, None, None, width, width, device=setting.device)  # type: ignore[arg-type]
    compiled: Any = torch.compile(flex_attention)
    query, key, value = tensors(setting, 1, width)

    def work() -> None:
        compiled(query, key, value, block_mask=mask, enable_gqa=True).sum().backward()

    return work


def flash(setting: Setting, length: int) -> Callable[[], None]:
    """FlashAttention's package, a sequence a row."""
    import flash_attn  # type: ignore[import-not-found]

    query, key, value = (t.detach().transpose(1, 2).requires_grad_() for t in tensors(setting, 4, length))

    def work() -> None:
        flash_attn.flash_attn_func(query, key, value, causal=True).sum().backward()

    return work


def separate(setting: Setting, length: int) -> Callable[[], None]:
    """torch's scaled_dot_product_attention, a sequence a row."""
    query, key, value = tensors(setting, 4, length)

    def work() -> None:
        keys, values = repeated(query, key), repeated(query, value)
        F.scaled_dot_product_attention(query, keys, values, is_causal=True).sum().backward()

    return work


KERNELS: dict[str, Callable[[Setting, int], Callable[[], None]]] = {
    "the learner's, shared prompt": shared,
    "FlexAttention, shared prompt": flex,
    "scaled_dot_product_attention, a sequence a row": separate,
    "FlashAttention, a sequence a row": flash,
}
