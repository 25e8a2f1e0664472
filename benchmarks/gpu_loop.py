"""The loop of gpu.py: weight pushes against a memory copy, three GRPO steps with the torch engine, and vLLM where it is installed."""

import asyncio
import time
from importlib.util import find_spec
from typing import Any

import torch
from gpu_setting import GIB, SHAPES, Setting, cell, groups
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.types import Sampling
from rollhouse.train.grpo.advantages import group_advantages
from rollhouse.train.grpo.learner.batch import TrainSample
from rollhouse.train.grpo.learner.learner import Learner

Row = dict[str, Any]


def measure_push(setting: Setting, rows: list[Row]) -> None:
    """What the parts of a push take, beside a copy of the same bytes on the device. CUDA IPC is what `weight_sync=cuda_ipc` sends by."""
    shape = setting.small()
    learner = setting.learner(shape)
    n_bytes = 2 * sum(p.numel() for p in learner.model.parameters())
    source = torch.empty(n_bytes, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    path = setting.scratch / "push.safetensors"
    engine = TorchEngine(setting.model(shape), max_model_len=1024, stop_ids=[0])

    def load() -> None:
        asyncio.run(engine.load_weights(str(path), 1))

    copy = setting.seconds(lambda: target.copy_(source), rounds=5)
    works = {
        "write a file, bfloat16": lambda: learner.save_weights(str(path), "bfloat16"),
        "the torch engine loads it": load,
    }
    rows.append({"shape": shape, "GB": n_bytes / 1e9, "part": "memory copy", "ms": 1e3 * copy, "times a copy": 1.0})
    for name, work in works.items():
        row: Row = {"shape": shape, "GB": n_bytes / 1e9, "part": name}
        with cell(setting, rows, row, 0 if setting.tiny else 5) as runs:
            if runs:
                row["ms"] = 1e3 * setting.seconds(work, rounds=3)
                row["times a copy"] = row["ms"] / (1e3 * copy)
    row = {"shape": shape, "GB": n_bytes / 1e9, "part": "handles to another process, which copies"}
    with cell(setting, rows, row, 0 if setting.tiny else 20) as runs:
        if runs:
            row["ms"] = 1e3 * by_handles(learner, setting)
            row["times a copy"] = row["ms"] / (1e3 * copy)
    engine.close()


def by_handles(learner: Learner, setting: Setting) -> float:
    """Seconds, the median of three: tensors in bfloat16 are handed to a process of their own (CUDA IPC; shared memory on a CPU), which copies them into its own."""
    context = torch.multiprocessing.get_context("spawn")
    send, done = context.Queue(), context.Queue()
    receiver = context.Process(target=receive, args=(send, done, setting.device), daemon=True)
    receiver.start()
    try:
        found = []
        for _ in range(4):
            setting.wait()
            begin = time.perf_counter()
            send.put([p.detach().to(torch.bfloat16) for p in learner.model.parameters()])
            done.get(timeout=120)
            found.append(time.perf_counter() - begin)
        send.put(None)
        receiver.join(30)
        return sorted(found[1:])[1]
    finally:
        receiver.kill()


def receive(send: Any, done: Any, device: str) -> None:
    """The other process of `by_handles`."""
    own: list[torch.Tensor] = []
    while (tensors := send.get()) is not None:
        if not own:
            own = [torch.empty_like(tensor) for tensor in tensors]
        for target, source in zip(own, tensors, strict=True):
            target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        del tensors
        done.put(True)


def measure_grpo(setting: Setting, rows: list[Row]) -> None:
    """Three steps: the torch engine samples groups, the reward is the share of even tokens, the learner steps, the engine takes its weights.

    `sync` is the mean difference between the engine's and the learner's logprobs of the sampled tokens after each push.
    """
    shape = setting.small()
    prompts, answers, prompt_tokens, new_tokens = (2, 4, 16, 16) if setting.tiny else (8, 8, 256, 128)
    learner = setting.learner(shape, precision="bfloat16", optimizer={"lr": 1e-4})
    engine = TorchEngine(setting.model(shape), max_model_len=1024, stop_ids=[SHAPES[shape]["vocab_size"] - 1])
    path = str(setting.scratch / "grpo.safetensors")
    asked = [sample.prompt_ids for sample in groups(shape, prompts, 1, prompt_tokens, 1) for _ in range(answers)]
    for step in range(1, 4):
        row: Row = {"shape": shape, "step": step, "rollouts": len(asked)}
        with cell(setting, rows, row, 0 if setting.tiny else 20) as runs:
            if runs:
                grpo_step(setting, learner, engine, [list(ids) for ids in asked], answers, new_tokens, path, step, row)
    engine.close()


def grpo_step(
    setting: Setting, learner: Learner, engine: TorchEngine, asked: list[list[int]], answers: int, new_tokens: int,
    path: str, step: int, row: Row,
) -> None:  # fmt: skip
    """Fills the row of one step."""
    setting.reset_peak()
    begin = time.perf_counter()

    async def sample() -> list[Any]:
        settings = [Sampling(max_tokens=new_tokens, seed=1000 * step + i) for i in range(len(asked))]
        return await asyncio.gather(*(engine.generate(p, s) for p, s in zip(asked, settings, strict=True)))

    found = asyncio.run(sample())
    row["generate s"] = time.perf_counter() - begin
    rewards = torch.tensor([sum(t % 2 == 0 for t in one.token_ids) / len(one.token_ids) for one in found])
    numbers = torch.arange(len(asked)) // answers
    values = group_advantages(rewards, numbers).values_B.tolist()
    samples = [
        TrainSample(str(i), asked[i], one.token_ids, [1] * len(one.token_ids), one.logprobs, values[i])
        for i, one in enumerate(found)
    ]
    row["reward"] = float(rewards.mean())
    begin = time.perf_counter()
    result = learner.step(
        samples, [list(range(at, min(at + answers, len(samples)))) for at in range(0, len(samples), answers)]
    )
    setting.wait()
    row["train s"] = time.perf_counter() - begin
    row["loss"] = result.loss
    begin = time.perf_counter()
    learner.save_weights(path, "bfloat16" if setting.device == "cuda" else None)
    asyncio.run(engine.load_weights(path, step))
    row["push s"] = time.perf_counter() - begin
    some = samples[:4]
    ours = learner.logprobs([(one.prompt_ids, one.token_ids) for one in some])
    theirs = asyncio.run(scores(engine, some))
    gaps = [abs(a - b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=True)]
    row["sync"] = sum(gaps) / len(gaps)
    row["peak GiB"] = setting.peak() / GIB


async def scores(engine: TorchEngine, samples: list[TrainSample]) -> list[list[float]]:
    """The engine's logprobs of each sample's tokens behind its prompt."""
    whole = [await engine.score([*sample.prompt_ids, *sample.token_ids]) for sample in samples]
    return [found[len(sample.prompt_ids) :] for found, sample in zip(whole, samples, strict=True)]


def measure_vllm(setting: Setting, rows: list[Row]) -> None:
    """Where vLLM and Ray are installed: weight_push.py's table, by file and, on a GPU, by CUDA IPC."""
    missing = [package for package in ("vllm", "ray") if find_spec(package) is None]
    if missing or setting.tiny:
        rows.append(
            {
                "not run": f"{missing[0]} is not installed"
                if missing
                else "benchmarks/weight_push.py measures it on a CPU"
            }
        )
        return
    row: Row = {}
    with cell(setting, rows, row, 90) as runs:
        if not runs:
            return
        from rollhouse.policies.engines.cluster import ensure_ray, shutdown_ray
        from rollhouse.train.tiny import base_policy
        from weight_push import measure

        ensure_ray(num_cpus=4)
        try:
            row |= flat(measure(base_policy(), "float32", 3))
        finally:
            shutdown_ray()


def flat(found: dict[str, Any]) -> Row:
    """Nested numbers under joined names."""
    row: Row = {}
    for name, value in found.items():
        if isinstance(value, dict):
            row |= {f"{name}, {part} ms": number for part, number in value.items()}
        else:
            row[name] = value
    return row
