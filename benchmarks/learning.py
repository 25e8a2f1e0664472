"""Runs the whole demo on several seeds and writes the table of pass rates.

    python benchmarks/learning.py [--seeds 0 1 2] [--keep DIR] [--out benchmarks/learning.md]

One line per seed: the validation pass rate at temperature 1 of base, SFT, DPO and GRPO, the greedy one, and the seconds the demo took.
Exits 1 when the means miss the goals: SFT and GRPO at least 0.1 above base, DPO not below it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

STAGES = ("base", "sft", "dpo", "grpo")
GAIN = 0.1


def main() -> int:
    """Runs the seeds one after the other, so that each has the machine to itself."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, help="keep the stores in this folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("learning.md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        summaries = [run_demo(seed, (options.keep or Path(scratch)) / f"seed-{seed}") for seed in options.seeds]
    failures = shortfalls(summaries)
    options.out.write_text(report(summaries, failures))
    print(options.out.read_text())
    return 1 if failures else 0


def run_demo(seed: int, store: Path) -> dict:
    """The summary of one demo, run as a user would."""
    command = Path(sys.executable).with_name("rollhouse")
    subprocess.run([command, "demo", "--seed", str(seed), "--store", store], check=True)
    return json.loads((store / "summary.json").read_text())


def shortfalls(summaries: list[dict]) -> list[str]:
    """The goals that the means over seeds miss, in words."""
    rate = {stage: mean(summary["pass_rate"][stage] for summary in summaries) for stage in STAGES}
    wanted = {"sft": GAIN, "grpo": GAIN, "dpo": 0.0}
    return [
        f"{stage} is {rate[stage] - rate['base']:+.3f} against base, wanted {least:+.1f} or more"
        for stage, least in wanted.items()
        if rate[stage] - rate["base"] < least
    ]


def report(summaries: list[dict], failures: list[str]) -> str:
    """The table as Markdown."""
    lines = [
        "# Does the loop learn?",
        "",
        "Pass rate on held-out validation tasks of `workplace-mini` at temperature 1, greedy in parentheses; one row a seed of the whole demo.",
        f"Measured with `python benchmarks/learning.py` on {os.cpu_count()} CPU cores ({platform.machine()}, Python {platform.python_version()}), no GPU.",
        "",
        "| seed | base | SFT | DPO | GRPO | rollouts | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for summary in summaries:
        cells = [f"{summary['pass_rate'][stage]:.3f} ({summary['pass_rate_greedy'][stage]:.3f})" for stage in STAGES]
        seconds = sum(summary["seconds"].values())
        lines.append(
            f"| {summary['seed']} | {' | '.join(cells)} | {summary['rollouts']:,} | {summary['tokens']:,} | {seconds:.0f} |"
        )
    means = [
        f"**{mean(s['pass_rate'][stage] for s in summaries):.3f}** ({mean(s['pass_rate_greedy'][stage] for s in summaries):.3f})"
        for stage in STAGES
    ]
    lines += [f"| mean | {' | '.join(means)} | | | {mean(sum(s['seconds'].values()) for s in summaries):.0f} |", ""]
    stages = list(summaries[0]["seconds"])
    lines += ["Seconds of each stage:", "", f"| seed | {' | '.join(stages)} |", f"|---|{'---|' * len(stages)}"]
    for summary in summaries:
        seconds = [f"{summary['seconds'][stage]:.0f}" for stage in stages]
        lines.append(f"| {summary['seed']} | {' | '.join(seconds)} |")
    lines += [
        "",
        "All goals hold: SFT and GRPO at least 0.1 above base, DPO not below it."
        if not failures
        else f"Missed: {'; '.join(failures)}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
