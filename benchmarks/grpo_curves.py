"""Does it learn as well as TRL, and what does staleness cost? Validation pass rate of the tiny policy against samples, three seeds.

    python benchmarks/grpo_curves.py [--arms sync trl …] [--seeds 0 1 2] [--results benchmarks/grpo_curves.json] [--picture docs/grpo-curves.svg]

Runs in the results are not repeated. Prints the table as Markdown and draws the picture; exits 1 when ours is below TRL, or
asynchronous below synchronous, by more than two standard errors. The results do not depend on the machine's speed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rollhouse.benchmarks.grpo_pictures import COLOURS, Line, Panel, picture

Result = dict[str, Any]
COMMON: Result = {"side": "ours", "prompts": 8, "group": 8, "steps": 12, "lr": 1e-4, "n_prompts": 128, "val_period": 4, "val_tasks": 120,
                  "staleness": None, "correction": True}  # fmt: skip
ARMS: dict[str, tuple[str, Result]] = {
    "sync": ("ours, synchronous", {}),
    "trl": ("TRL", {"side": "trl"}),
    "async2": ("ours, staleness 2", {"staleness": 2}),
    "stale8": ("staleness 8, no correction", {"staleness": 8, "correction": False}),
}
GOALS = (("sync", "trl"), ("async2", "sync"))
RUN = Path(__file__).with_name("grpo_curves_run.py")


def main() -> int:
    """Makes missing runs, prints, draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("grpo_curves.json"))
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    for seed in options.seeds:
        for arm in options.arms:
            if not any((one["arm"], one["seed"]) == (arm, seed) for one in results):
                results.append(run(arm, seed))
                options.results.write_text(json.dumps(results, indent=None).replace('{"side"', '\n{"side"') + "\n")
    arms = [arm for arm in ARMS if any(one["arm"] == arm for one in results)]
    if options.picture:
        options.picture.write_text(draw({arm: curve(results, arm) for arm in arms}))
    print(f"{seeds_of(results, arms)}\n")
    print(table({arm: curve(results, arm) for arm in arms}))
    met = judge({arm: curve(results, arm) for arm in arms})
    print(ages(results))
    return 0 if met else 1


def run(arm: str, seed: int) -> Result:
    """One run, in a process of its own."""
    settings = COMMON | ARMS[arm][1] | {"arm": arm, "seed": seed}
    done = subprocess.run([sys.executable, str(RUN), json.dumps(settings)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arm}, seed {seed} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def curve(results: list[Result], arm: str) -> list[tuple[int, float, float]]:
    """(samples, mean pass rate, its standard error) at each validation, over the seeds.

    The error is of the mean over seeds, from the seeds' spread, and at least what 120 tasks a seed alone would give.
    """
    runs = [one for one in results if one["arm"] == arm]
    points = []
    for at in zip(*(one["validation"] for one in runs), strict=True):
        rates = [rate for _, rate in at]
        p, n = mean(rates), len(rates)
        spread = stdev(rates) / n**0.5 if n > 1 else 0.0
        points.append((at[0][0] * runs[0]["prompts"] * runs[0]["group"], p, max(spread, (p * (1 - p) / (n * runs[0]["val_tasks"])) ** 0.5)))  # fmt: skip
    return points


def seeds_of(results: list[Result], arms: list[str]) -> str:
    """The seeds of every arm, in one sentence where they are the same."""
    seeds = {arm: ", ".join(str(one["seed"]) for one in results if one["arm"] == arm) for arm in arms}
    if len(set(seeds.values())) == 1:
        return f"Seeds {seeds[arms[0]]} each."
    return f"Seeds: {'; '.join(f'{ARMS[arm][0]} {found}' for arm, found in seeds.items())}."


def table(curves: dict[str, list[tuple[int, float, float]]]) -> str:
    """Pass rates as Markdown, one row an arm."""
    samples = [point[0] for point in next(iter(curves.values()))]
    lines = [f"| samples | {' | '.join(map(str, samples))} |", f"|---|{'---|' * len(samples)}"]
    for arm, points in curves.items():
        lines.append(f"| {ARMS[arm][0]} | {' | '.join(f'{rate:.3f} ± {error:.3f}' for _, rate, error in points)} |")
    return "\n".join(lines)


def ages(results: list[Result]) -> str:
    """Tokens' mean age in optimizer steps by arm; only arms of ours have one."""
    parts = []
    for arm, (name, _) in ARMS.items():
        found = [
            one["measures"]["staleness/token_mean"]
            for one in results
            if one["arm"] == arm and "staleness/token_mean" in one["measures"]
        ]
        if found:
            parts.append(f"{name} {mean(found):.2f}")
    return f"\nMean age of the weights that sampled a token, in steps: {'; '.join(parts)}." if parts else ""


def judge(curves: dict[str, list[tuple[int, float, float]]]) -> bool:
    """Prints the differences at the end and the lowest of the curve, in standard errors of the difference."""
    met = True
    print("\n| | at the end | in standard errors | least of the curve, in standard errors | not below by more than two |\n|---|---|---|---|---|")  # fmt: skip
    for ours, other in GOALS:
        if ours in curves and other in curves:
            gaps = [(a[1] - b[1], (a[2] ** 2 + b[2] ** 2) ** 0.5) for a, b in zip(curves[ours][1:], curves[other][1:], strict=True)]  # fmt: skip
            in_errors = [gap / error for gap, error in gaps]
            good = min(in_errors) >= -2
            met &= good
            print(f"| {ARMS[ours][0]} against {ARMS[other][0]} | {gaps[-1][0]:+.3f} | {in_errors[-1]:+.1f} | {min(in_errors):+.1f} | {'yes' if good else '**no**'} |")  # fmt: skip
    return met


def draw(curves: dict[str, list[tuple[int, float, float]]]) -> str:
    """The picture."""
    lines = [
        Line(ARMS[arm][0], [point[:2] for point in points], COLOURS[number], [point[2] for point in points], arm == "trl")
        for number, (arm, points) in enumerate(curves.items())
    ]  # fmt: skip
    title = "Tiny policy on workplace-mini, mean over seeds"
    return picture([Panel(title, "rollouts trained on", "validation pass rate", lines, 520, 170)])


if __name__ == "__main__":
    sys.exit(main())
