"""How long a weight push takes, beside a plain memory copy of the same bytes measured in the same minute.

    python benchmarks/weight_push.py                   # the tiny policy and a random model of 516 MB, float32
    python benchmarks/weight_push.py --dtype bfloat16  # the engine computes in bfloat16, and the weights travel in it

The learner and a vLLM engine run as in a training run: two Ray actors on one machine. `write` is the learner's part, `load` the engine's with its
key-value cache rebuilt, `memory copy` a copy between two arrays of the same size, with one thread. `shared` is a learner whose parameters live in the
file. Medians, a copy before every push; the first push of each kind, which makes the file, is left out and named apart.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy
from rollhouse.policies.engines.cluster import ensure_ray, shutdown_ray
from rollhouse.policies.engines.vllm_actor import open_vllm
from rollhouse.train.grpo.config_policy import PolicyConfig
from rollhouse.train.grpo.learner.group import LearnerGroup
from rollhouse.train.grpo.learner.settings import LearnerSettings
from rollhouse.train.grpo.sync.sync import WeightSync, open_sync
from rollhouse.train.tiny import base_policy

MIB = 2**20


def random_model(folder: Path) -> Path:
    """A Qwen3 of 129 M parameters with random weights and the tiny policy's tokenizer, so that no download is needed."""
    import shutil

    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    base = base_policy()
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    small = json.loads((base / "config.json").read_text())
    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64}
    config = Qwen3Config(
        vocab_size=32_768,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=small.get("eos_token_id"),
        pad_token_id=small.get("pad_token_id"),
        bos_token_id=None,
        **shape,
    )
    Qwen3ForCausalLM(config).float().save_pretrained(folder)
    return folder


def copier(n_bytes: int) -> Callable[[], float]:
    """Measures one copy between two arrays whose memory is there already."""
    source, target = numpy.ones(n_bytes, numpy.uint8), numpy.ones(n_bytes, numpy.uint8)

    def seconds() -> float:
        begin = time.perf_counter()
        numpy.copyto(target, source)
        return time.perf_counter() - begin

    return seconds


def measure(model: Path, dtype: str, rounds: int) -> dict[str, Any]:
    """Medians in milliseconds for one model."""
    with ExitStack() as opened:
        engine = open_vllm(model, max_model_len=256, dtype=dtype, take_over=False)
        opened.callback(engine.close)
        syncs: dict[str, WeightSync] = {}
        for name, shared in (("file", False), ("file, shared", True)):
            learner = opened.enter_context(
                LearnerGroup(str(model), LearnerSettings(PolicyConfig(model_name=str(model))))
            )
            if shared and dtype != "float32":
                continue
            kind = name.split(",")[0]
            sync = open_sync(kind, learner, engine, dtype=dtype, share_parameters=shared)
            syncs[name] = opened.enter_context(closing(sync))
        n_bytes = weight_bytes(model, dtype)
        copy = copier(n_bytes)
        copies: list[float] = []
        found: dict[str, list[dict[str, float]]] = {name: [] for name in syncs}
        # One kind after the other: an engine keeps one file mapped, as in a run.
        for name, sync in syncs.items():
            for _ in range(rounds + 1):
                copies.append(copy())
                begin = time.perf_counter()
                sync.push(1)
                found[name].append(sync.seconds | {"push": time.perf_counter() - begin})
        row: dict[str, Any] = {"model": model.name.split("-base")[0], "MB": n_bytes / 1e6, "dtype": dtype, "copy": 1e3 * statistics.median(copies)}  # fmt: skip
        for name, pushes in found.items():
            row[name] = {part: 1e3 * statistics.median(push[part] for push in pushes[1:]) for part in pushes[0]}
            row[name] |= {"first": 1e3 * pushes[0]["push"], "over copy": row[name]["push"] / row["copy"]}
        return row


def weight_bytes(model: Path, dtype: str) -> int:
    """Bytes of a model's tensors in the dtype."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "pt") as file:
        numbers = sum(int(numpy.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    return numbers * (2 if dtype == "bfloat16" else 4)


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, milliseconds."""
    lines = [
        "| model | MB | sync | write | load | push | memory copy | push over copy | first push |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, found in row.items():
            if isinstance(found, dict):
                numbers = [found["write"], found["load"], found["push"], row["copy"]]
                cells = " | ".join(f"{number:.1f}" for number in numbers)
                lines.append(
                    f"| {row['model']}, {row['dtype']} | {row['MB']:.0f} | {name} | {cells} | {found['over copy']:.2f} | {found['first']:.0f} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    ensure_ray(num_cpus=8)
    try:
        with tempfile.TemporaryDirectory() as folder:
            models = [base_policy(), random_model(Path(folder) / "random-129M")]
            print(table([measure(model, options.dtype, options.rounds) for model in models]))
    finally:
        shutdown_ray()


if __name__ == "__main__":
    main()
