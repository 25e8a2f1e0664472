"""Seconds of a GRPO step: ours, synchronous and one step off-policy, against TRL's GRPOTrainer with colocated vLLM, in one run.

    python benchmarks/grpo.py [--quick] [--bf16] [--growth docs/grpo-growth.svg] [--json FILE] [--gpu]

Same random model, prompts, group size, token limits and precision (see `grpo_task.py`); every measurement is a process of its own, and the sides take
turns. Prints the tables as Markdown; `--json` keeps every number. Exits 1 when a goal is missed. Needs the extras `vllm` and `train`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
Measured = dict[str, Any]
PHASES = ("generate", "wait", "train", "sync", "verify", "store", "store_rollouts", "store_behind")


@dataclass(frozen=True)
class Side:
    """One row of the table. `warm_up` steps are excluded: an asynchronous run needs two until both halves overlap."""

    name: str
    script: str
    changes: Measured = field(default_factory=dict)
    warm_up: int = 1


SIDES = (
    Side("TRL", "grpo_trl.py"),
    Side("TRL, correction off", "grpo_trl.py", {"correction": False}),
    Side("ours, synchronous", "grpo_ours.py", {"learner_threads": 2, "engine_threads": 2}),
    Side("ours, asynchronous", "grpo_ours.py", {"staleness": 1}, 2),
)
TRL, TRL_PLAIN, SYNC, ASYNC = (side.name for side in SIDES)
WORK: Measured = {
    "prompts": 8, "group": 8, "prompt_tokens": 123, "new_tokens": 128, "n_prompts": 64, "lr": 1e-3, "seed": 0, "gpu": False,
    "precision": "float32", "correction": True, "micro_batch": None, "threads": os.cpu_count(),
    "staleness": 0, "eager": False, "learner_threads": 1, "engine_threads": 1, "micro_batch_tokens": 2048,
}  # fmt: skip
GPU_SHAPE = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
GROWTH = {"group": (4, 16), "new_tokens": (64, 256), "prompts": (4, 16)}  # half and double of WORK
GOALS = ((SYNC, 1.5), (ASYNC, 1.8))
LIMIT_S = 900


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of two steps")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of a run")
    parser.add_argument(
        "--trl-micro-batch", type=int, help="rollouts TRL's learner takes at once; all of a step by default"
    )
    parser.add_argument("--bf16", action="store_true", help="a second table, learners in bfloat16")
    parser.add_argument(
        "--growth", type=Path, help="also measure growth with group, length and batch, drawn into this SVG"
    )
    parser.add_argument("--gpu", action="store_true", help="a model of Qwen3-0.6B's shape, both sides on the GPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds, steps = (1, 2) if options.quick else (options.rounds, options.steps)
    with tempfile.TemporaryDirectory(prefix="rollhouse-bench-") as folder:
        work = WORK | {
            "model": str(prepare(Path(folder) / "model", options.gpu)),
            "gpu": options.gpu,
            "micro_batch": options.trl_micro_batch,
        }
        precisions = ("float32", "bfloat16") if options.bf16 else ("float32",)
        found = {precision: compare(work | {"precision": precision}, rounds, steps) for precision in precisions}
        grown = growth(work, steps, found["float32"]) if options.growth else {}
    if options.json:
        options.json.write_text(json.dumps({"work": WORK, "found": found, "growth": grown}, indent=1))
    if options.growth:
        from rollhouse.benchmarks.grpo_pictures import growth_picture

        options.growth.write_text(growth_picture(grown))
    print(machine())
    met = [report(precision, found[precision]) for precision in precisions]
    return 0 if all(met) else 1


def prepare(folder: Path, gpu: bool) -> Path:
    """The model folder, written by a process of its own."""
    from rollhouse.benchmarks.grpo_task import Shape, write_model

    return write_model(folder, shape=Shape(**GPU_SHAPE) if gpu else None, vocabulary=151_936 if gpu else 2048)


def compare(work: Measured, rounds: int, steps: int) -> list[dict[str, Measured]]:
    """A round is one run of every side, by name."""
    return [{side.name: measure(side, work, steps) for side in SIDES} for _ in range(rounds)]


def measure(side: Side, work: Measured, steps: int) -> Measured:
    """One run, with `step`: the median of its measured steps in seconds."""
    workload = work | side.changes | {"steps": side.warm_up + steps}
    command = [sys.executable, str(HERE / side.script), json.dumps(workload)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        raise SystemExit(f"{side.name} failed:\n{done.stderr[-3000:]}")
    measured = json.loads(done.stdout.splitlines()[-1])
    measured["step"] = median(measured["seconds"][side.warm_up :])
    measured["phases"] = {name: values[side.warm_up :] for name, values in measured["phases"].items()}
    print(f"{side.name} ({workload['precision']}): {measured['step']:.2f} s a step, load {os.getloadavg()[0]:.1f}", file=sys.stderr)  # fmt: skip
    return measured


def growth(
    work: Measured, steps: int, found: list[dict[str, Measured]]
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """By dimension and side: (size, seconds a step), one run each; the size of `found` has its median."""
    grown: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for what, sizes in GROWTH.items():
        for side in (side for side in SIDES if side.name != TRL_PLAIN):
            points = [(WORK[what], median(one[side.name]["step"] for one in found))]
            points += [(size, measure(side, work | {what: size}, steps)["step"]) for size in sizes]
            grown.setdefault(what, {})[side.name] = sorted(points)
    return grown


def report(precision: str, rounds: list[dict[str, Measured]]) -> bool:
    """Prints the tables of one precision; returns whether the goals are met."""
    steps = {side.name: [one[side.name]["step"] for one in rounds] for side in SIDES}
    print(f"\n### Learner in {precision}, engine in bfloat16\n")
    print("| | s / step | runs | TRL is slower by | TRL with its correction off |\n|---|---|---|---|---|")
    for name, seconds in steps.items():
        runs = ", ".join(f"{value:.2f}" for value in seconds)
        print(f"| {name} | {median(seconds):.2f} | {runs} | {ratio(steps, TRL, name):.2f}x | {ratio(steps, TRL_PLAIN, name):.2f}x |")  # fmt: skip
    goals = [(f"{name}: at least {least} times as fast as TRL", ratio(steps, TRL, name), ratio(steps, TRL, name) >= least) for name, least in GOALS]  # fmt: skip
    share = max(store_ms(one[name]) / max(20.0, 20.0 * median(steps[name])) for one in rounds for name in (SYNC, ASYNC))
    goals.append(("waiting until rollouts, plans and numbers are in the store: of 2 % of a step or 20 ms, whichever is more", share, share <= 1))  # fmt: skip
    print("\n| goal | measured | met |\n|---|---|---|")
    for what, value, met in goals:
        print(f"| {what} | {value:.2f} | {'yes' if met else '**no**'} |")
    print_phases(rounds)
    print_rewards(rounds)
    return all(met for *_, met in goals)


def ratio(steps: dict[str, list[float]], other: str, name: str) -> float:
    """Median over rounds of the other's time by this one's in the same round."""
    return median(theirs / own for theirs, own in zip(steps[other], steps[name], strict=True))


def store_ms(measured: Measured) -> float:
    """Milliseconds that the median step waited for the store; writing beside the step is the phase `store_behind`."""
    phases = measured["phases"]
    return 1000 * median(
        plan + rollouts for plan, rollouts in zip(phases["time/store"], phases["time/store_rollouts"], strict=True)
    )


def print_phases(rounds: list[dict[str, Measured]]) -> None:
    """Our phases, medians over all measured steps. A step waits for `wait` of `generate`, which includes `store_rollouts`; `store_behind` runs beside the step."""
    print(f"\n| ms | {' | '.join(PHASES)} |\n|---|{'---|' * len(PHASES)}")
    for name in (SYNC, ASYNC):
        cells = []
        for phase in PHASES:
            values = [value for one in rounds for value in one[name]["phases"].get(f"time/{phase}", ())]
            cells.append(f"{1000 * median(values):.0f}" if values else "")
        print(f"| {name} | {' | '.join(cells)} |")


def print_rewards(rounds: list[dict[str, Measured]]) -> None:
    """Mean reward by step, and tokens a rollout: both sides must sample as much and learn alike."""
    n = min(len(one[side.name]["rewards"]) for one in rounds for side in SIDES)
    print(f"\n| reward of step | {' | '.join(map(str, range(1, n + 1)))} | tokens sampled a rollout |\n|---|{'---|' * (n + 1)}")  # fmt: skip
    for side in SIDES:
        runs = [one[side.name] for one in rounds]
        rewards = [median(run["rewards"][step] for run in runs) for step in range(n)]
        length = median(value for run in runs for value in run["lengths"])
        print(f"| {side.name} | {' | '.join(f'{reward:.3f}' for reward in rewards)} | {length:.0f} |")


def machine() -> str:
    """The machine and packages."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "vllm", "trl", "transformers", "ray"))
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, {packages}; load {os.getloadavg()[0]:.1f} at the end."


if __name__ == "__main__":
    raise SystemExit(main())
