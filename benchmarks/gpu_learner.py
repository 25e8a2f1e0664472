"""The learner's part of gpu.py: steps over lengths and settings, gradients of shared prompts, the optimizer alone."""

from typing import Any

import torch
from gpu_setting import GIB, SHAPES, Setting, cell, groups
from learner import PEAK_TFLOPS, step_flops
from rollhouse.train.grpo.learner.batch import TrainSample, split_micro_batches
from rollhouse.train.grpo.learner.learner import Learner

Row = dict[str, Any]

BASE: dict[str, Any] = {"precision": "bfloat16", "shared_prefix": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "bfloat16, shared prompts": BASE,
    "a sequence a row": BASE | {"shared_prefix": False},
    "activation checkpointing": BASE | {"activation_checkpointing": True},
    "chunks of 512 logprobs": BASE | {"logprob_chunk_tokens": 512},
    "float32": BASE | {"precision": "float32"},
}
"""The first is the base; each other one differs from it in one setting."""


def measure_learner(setting: Setting, rows: list[Row]) -> None:
    """Tokens a second, utilisation and peak memory of a step: the base at every length, the other variants at the first, then the larger shape."""
    lengths = (32, 48, 64) if setting.tiny else (2048, 8192, 16_384)
    small = setting.small()
    plan = [(small, length, "bfloat16, shared prompts") for length in lengths]
    plan += [(small, lengths[0], name) for name in VARIANTS if name != "bfloat16, shared prompts"]
    plan += [(small, lengths[-1], "activation checkpointing")]
    if not setting.tiny:
        plan += [("qwen3-4b", length, "activation checkpointing") for length in (lengths[0], lengths[1])]
    for shape, length, name in plan:
        row: Row = {"shape": shape, "tokens a sequence": length, "variant": name}
        with cell(setting, rows, row, 0 if setting.tiny else 60 if shape == "qwen3-4b" else 25) as runs:
            if runs:
                one_step(setting, shape, length, VARIANTS[name], row)


def one_step(setting: Setting, shape: str, length: int, policy: dict[str, Any], row: Row) -> None:
    """Fills the row of one cell: two groups of four answers, half of a sequence is its prompt."""
    samples = groups(shape, 2, 4, length // 2, length // 2)
    budget = max(4 * length, 512 if setting.tiny else 16_384)
    split = split_of(samples, budget)
    learner = setting.learner(shape, train_mb_tokens=budget, **policy)
    setting.reset_peak()
    seconds = setting.seconds(lambda: learner.step(samples, split), rounds=2)
    peak = setting.peak()
    tokens = sum(sample.length for sample in samples)
    row["s a step"] = seconds
    row["tokens / s"] = tokens / seconds
    row["TFLOP/s"] = step_flops(learner.model, samples) / seconds / 1e12
    limit = card_tflops(setting)
    if limit:
        row["utilisation"] = f"{row['TFLOP/s'] / limit:.1%}"
    row["peak GiB"] = peak / GIB
    if setting.device == "cuda":  # a CPU's peak is that of the whole process
        row["GiB by docs/learner.md"] = expected_bytes(learner, shape, samples, split, policy) / GIB


def split_of(samples: list[TrainSample], budget: int) -> list[list[int]]:
    """Micro-batches as a run makes them."""
    names = [sample.rollout_id.split("-")[0] for sample in samples]
    return split_micro_batches([sample.length for sample in samples], budget, names)


def card_tflops(setting: Setting) -> float | None:
    """Dense bfloat16 of the card by its data sheet; None where it is not known."""
    if setting.device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((float(peak) for card, peak in PEAK_TFLOPS.items() if card in name), None)


def expected_bytes(
    learner: Learner, shape: str, samples: list[TrainSample], split: list[list[int]], policy: dict[str, Any]
) -> float:
    """Peak memory of a step by the table of docs/learner.md."""
    s = SHAPES[shape]
    parameters = sum(p.numel() for p in learner.model.parameters())
    width, number = s["hidden_size"], 2 if policy["precision"] == "bfloat16" else 4
    q, k = s["num_attention_heads"] * s["head_dim"], s["num_key_value_heads"] * s["head_dim"]
    one_layer = 6 * width + 2 * q + 2 * k + 4 * s["intermediate_size"]
    layers = s["num_hidden_layers"]
    per_token = layers * width + one_layer if policy.get("activation_checkpointing") else layers * one_layer
    tokens = max(rows_tokens([samples[i] for i in batch], policy["shared_prefix"]) for batch in split)
    sampled = max(sum(samples[i].n_sampled for i in batch) for batch in split)
    chunk = min(sampled, policy.get("logprob_chunk_tokens") or 2**27 // s["vocab_size"])
    return 16 * parameters + tokens * per_token * number + 3 * 4 * s["vocab_size"] * chunk


def rows_tokens(samples: list[TrainSample], shared: bool) -> int:
    """Tokens of the rows of a micro-batch, a prompt counted once a group when it is shared."""
    prompts = {tuple(sample.prompt_ids) for sample in samples} if shared else [tuple(s.prompt_ids) for s in samples]
    return sum(map(len, prompts)) + sum(len(sample.token_ids) for sample in samples)


def measure_gradients(setting: Setting, rows: list[Row]) -> None:
    """The gradient of a step with shared prompts, and in bfloat16, against float32 with a sequence a row: cosine and relative difference over all parameters."""
    shape = setting.small()
    samples = groups(shape, 1, 4, 16 if setting.tiny else 512, 16 if setting.tiny else 512)
    split = split_of(samples, 1 << 20)
    reference = None
    for name, policy in {
        "float32, a sequence a row": {"precision": "float32", "shared_prefix": False},
        "float32, shared prompts": {"precision": "float32", "shared_prefix": True},
        "bfloat16, a sequence a row": {"precision": "bfloat16", "shared_prefix": False},
        "bfloat16, shared prompts": {"precision": "bfloat16", "shared_prefix": True},
    }.items():
        row: Row = {"shape": shape, "variant": name}
        with cell(setting, rows, row, 0 if setting.tiny else 15) as runs:
            if not runs:
                continue
            learner = setting.learner(shape, train_mb_tokens=1 << 20, **policy)
            learner.step(samples, split)
            flat = torch.cat([p.grad.flatten().cpu() for p in learner.model.parameters() if p.grad is not None])
            reference = flat if reference is None else reference
            row["norm"] = float(flat.norm())
            row["relative difference"] = float((flat - reference).norm() / reference.norm())
            row["cosine"] = float(torch.nn.functional.cosine_similarity(flat, reference, dim=0))


def measure_optimizer(setting: Setting, rows: list[Row]) -> None:
    """AdamW alone over the parameters of the shape, float32: one kernel, lists of tensors, a loop."""
    shape = setting.small()
    for name, options in {"fused": {"fused": True}, "foreach": {"foreach": True}, "a loop": {"foreach": False}}.items():
        row: Row = {"shape": shape, "AdamW": name}
        with cell(setting, rows, row, 0 if setting.tiny else 10) as runs:
            if not runs:
                continue
            learner = setting.learner(shape)
            parameters = list(learner.model.parameters())
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 1e-3)
            optimizer = torch.optim.AdamW(parameters, 1e-6, **options)  # type: ignore[arg-type]
            row["ms"] = 1e3 * setting.seconds(optimizer.step, rounds=5)
            numbers = sum(p.numel() for p in parameters)
            row["GB/s"] = (
                7 * 4 * numbers / row["ms"] / 1e6
            )  # reads weight, gradient and two moments; writes three of them
