"""The learner's step: tokens a second, model FLOP utilisation and memory, with and without what is to make it cheaper.

    python benchmarks/learner.py                            # the tiny policy's shape, on a CPU
    python benchmarks/learner.py --shape qwen3-0.6b         # random weights of that shape, on a GPU

Needs torch and transformers alone. Each variant is a learner of its own with the same weights and batch; rounds are interleaved, numbers are
medians, ratios are against the first variant of the same run. Tokens are those of the sequences, prompt and answer, without padding, for all
variants alike; so is the model's work, as if each sequence were computed by itself: sharing prompts does less of it, and checkpointing more.
Memory is the peak of a step above what lay there before it.
"""

import argparse
import gc
import json
import platform
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rollhouse.train.grpo.config_policy import PolicyConfig
from rollhouse.train.grpo.learner.batch import TrainSample, split_micro_batches
from rollhouse.train.grpo.learner.layout import model_cost
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.settings import LearnerSettings

MIB = 2**20
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
    "small": {"vocab_size": 32_768, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64},
    "qwen3-0.6b": {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
    "qwen3-1.7b": {"vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip
PEAK_TFLOPS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "RTX 4090": 165}  # fmt: skip
"""Dense bfloat16 with float32 sums, as the vendor's data sheets say; the first name that is in the card's counts."""

VARIANTS: dict[str, dict[str, Any]] = {
    "float32, a sequence a row": {},
    "float32, shared prefix": {"shared_prefix": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, shared prefix": {"precision": "bfloat16", "shared_prefix": True},
    "bfloat16, shared prefix, chunks": {"precision": "bfloat16", "shared_prefix": True, "logprob_chunk_tokens": 512},
    "bfloat16, shared prefix, checkpointing": {
        "precision": "bfloat16",
        "shared_prefix": True,
        "activation_checkpointing": True,
    },
}


@dataclass
class Measured:
    """Of one variant: seconds and extra bytes of each timed step."""

    seconds: list[float]
    extra_bytes: list[int]


def main() -> int:
    """Runs all variants and prints or writes the table."""
    options = parsed()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = {"model_name": "random", "shared_prefix": False, "threads": options.threads}
    samples = batch(options)
    groups = [sample.rollout_id.split("-")[0] for sample in samples]
    split = split_micro_batches([sample.length for sample in samples], options.mb_tokens, groups)
    found = {name: Measured([], []) for name in options.variants}
    with tempfile.TemporaryDirectory() as scratch:
        random_model(options.shape, Path(scratch))
        work = 0.0
        for _ in range(options.rounds):
            for name, measured in found.items():
                settings = LearnerSettings(PolicyConfig.model_validate(base | VARIANTS[name]), device=device)
                learner = Learner(scratch, settings)
                work = step_flops(learner.model, samples)
                one_round(learner, samples, split, options.steps, measured)
                del learner
                gc.collect()
    text = report(options, device, samples, len(split), work, found)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text)
    return 0


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=123)
    parser.add_argument("--new-tokens", type=int, default=128, help="of the longest answer; the shortest has half")
    parser.add_argument("--mb-tokens", type=int, default=8192, help="policy.train_mb_tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed in each round, after one that is not")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--peak-tflops", type=float, help="of the card in bfloat16, where it is not a known one")
    parser.add_argument("--out", type=Path, help="write the table there")
    return parser.parse_args()


def batch(options: argparse.Namespace) -> list[TrainSample]:
    """Groups of random tokens: `options.prompts` prompts, each with `options.group` answers of unequal lengths."""
    rng = random.Random(0)
    vocabulary = SHAPES[options.shape]["vocab_size"]
    samples = []
    for number in range(options.prompts):
        prompt = [rng.randrange(vocabulary) for _ in range(options.prompt_tokens)]
        for index in range(options.group):
            n = rng.randint(max(1, options.new_tokens // 2), options.new_tokens)
            answer = [rng.randrange(vocabulary) for _ in range(n)]
            samples.append(TrainSample(f"{number}-{index}", prompt, answer, [1] * n, [-7.0] * n, rng.gauss(0, 1)))
    return samples


def random_model(shape: str, folder: Path) -> None:
    """A Qwen3 of that shape with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = SHAPES[shape]
    Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=True)).float().save_pretrained(folder)


def one_round(
    learner: Learner, samples: list[TrainSample], split: list[list[int]], steps: int, measured: Measured
) -> None:
    """Adds the timed steps of a learner that was just opened."""
    learner.step(samples, split)
    for _ in range(steps):
        before = memory(learner.settings.device, reset=True)
        begin = time.perf_counter()
        learner.step(samples, split)
        if learner.settings.device == "cuda":
            torch.cuda.synchronize()
        measured.seconds.append(time.perf_counter() - begin)
        measured.extra_bytes.append(memory(learner.settings.device) - before)


def memory(device: str, reset: bool = False) -> int:
    """Bytes at the peak since the last reset; with `reset` those of now, and the peak counts from here."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def step_flops(model: Any, samples: list[TrainSample]) -> float:
    """Floating-point operations of a step whose sequences are each computed by themselves: forward, and twice that backward."""
    cost, head = model_cost(model), model.get_input_embeddings().weight.numel()
    forward = sum(cost.causal(sample.length - 1) + head * sample.n_sampled for sample in samples)
    return 3 * 2 * forward


def peak_flops(options: argparse.Namespace, device: str) -> tuple[float, str]:
    """What the machine could do a second, and what that is."""
    if options.peak_tflops:
        return options.peak_tflops * 1e12, f"{options.peak_tflops:g} TFLOP/s"
    card = torch.cuda.get_device_name() if device == "cuda" else ""
    for name, tflops in PEAK_TFLOPS.items():
        if name in card:
            return tflops * 1e12, f"{tflops} TFLOP/s, {name} in bfloat16"
    matrix = torch.randn(2048, 2048, device=device)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    rate = 2 * 2048**3 / statistics.median(seconds)
    return rate, f"{rate / 1e12:.3f} TFLOP/s, a float32 product of two 2048 × 2048 matrices measured here"


def report(
    options: argparse.Namespace,
    device: str,
    samples: list[TrainSample],
    micro_batches: int,
    work: float,
    found: dict[str, Measured],
) -> str:
    """The table as Markdown."""
    peak, named = peak_flops(options, device)
    tokens = sum(sample.length for sample in samples)
    first = statistics.median(next(iter(found.values())).seconds)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, {options.threads} threads"
    lines = [
        f"{options.shape} on {where}, torch {torch.__version__}: {options.prompts} prompts × {options.group} answers, "
        f"{options.prompt_tokens} + at most {options.new_tokens} tokens, {tokens} in all, {micro_batches} micro-batches. "
        f"Utilisation is of {named}.",
        "",
        "| variant | s / step | tokens / s | speed | utilisation | peak memory of a step |",
        "|---|---|---|---|---|---|",
    ]
    for name, measured in found.items():
        seconds = statistics.median(measured.seconds)
        extra = statistics.median(measured.extra_bytes) / MIB
        lines.append(
            f"| {name} | {seconds:.3f} | {tokens / seconds:,.0f} | {first / seconds:.2f}× | {work / seconds / peak:.1%} | {extra:,.0f} MiB |"
        )
    lines += ["", f"`{json.dumps({name: [round(s, 4) for s in m.seconds] for name, m in found.items()})}`", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
