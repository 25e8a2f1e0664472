"""What one GPU does with the learner, the torch engine and a weight push, in one run of at most eight minutes.

    python benchmarks/gpu.py --out gpu              # writes gpu.json and gpu.md
    python benchmarks/gpu.py --tiny --out gpu       # the same measures in a tiny setting, for a CPU

Needs torch, transformers and pydantic, and no installation of rollhouse; vLLM and Ray are used where they are installed. The measures run in the
order of `MEASURES`. What does not fit into the time or the card's memory, or cannot run on the machine, is named in its row.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def main() -> int:
    """Runs the measures, prints the tables and writes both files; 1 when a measure failed."""
    options = parsed()
    with tempfile.TemporaryDirectory() as scratch:
        make_importable(Path(scratch))
        import torch
        import transformers
        from gpu_setting import Setting

        transformers.utils.logging.disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(1)
        setting = Setting(Path(scratch), device, options.tiny, time.monotonic() + options.seconds)
        found: dict[str, list[Row]] = {}
        seconds: dict[str, float] = {}
        for name, measure in measures().items():
            if options.only and name not in options.only:
                continue
            begin = time.monotonic()
            found[name] = run_measure(measure, setting)
            seconds[name] = round(time.monotonic() - begin, 1)
            print(f"# {name}: {seconds[name]:.0f} s", file=sys.stderr, flush=True)
            report = {"machine": machine(device), "seconds": seconds, "measures": found}
            if options.out:  # after every measure: a run that is stopped keeps what it has
                options.out.with_suffix(".json").write_text(json.dumps(report, indent=1))
                options.out.with_suffix(".md").write_text(text(report))
    print(text(report))
    return int(any("failed" in row for rows in found.values() for row in rows))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small shapes and short sequences")
    parser.add_argument("--seconds", type=float, default=480, help="no cell begins after it")
    parser.add_argument("--only", nargs="+", metavar="MEASURE", help="some of the measures")
    parser.add_argument("--out", type=Path, help="FILE.json and FILE.md are written")
    return parser.parse_args()


def make_importable(scratch: Path) -> None:
    """Makes this checkout the package `rollhouse`, wherever it lies and whatever is installed."""
    (scratch / "path").mkdir()
    (scratch / "path" / "rollhouse").symlink_to(Path(__file__).resolve().parent.parent)
    sys.path.insert(0, str(scratch / "path"))


def measures() -> dict[str, Callable[..., None]]:
    """The measures by name, in their order."""
    from gpu_attention import measure_attention
    from gpu_learner import measure_gradients, measure_learner, measure_optimizer
    from gpu_loop import measure_grpo, measure_push, measure_vllm

    return {
        "learner": measure_learner,
        "gradients": measure_gradients,
        "attention": measure_attention,
        "optimizer": measure_optimizer,
        "push": measure_push,
        "grpo": measure_grpo,
        "vllm": measure_vllm,
    }


def run_measure(measure: Callable[..., None], setting: Any) -> list[Row]:
    """The rows of a measure, with its traceback in a row of its own when it failed."""
    rows: list[Row] = []
    try:
        measure(setting, rows)
    except Exception as error:
        traceback.print_exc()
        rows.append({"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
    return rows


def machine(device: str) -> dict[str, str]:
    """What the numbers belong to."""
    import torch

    card = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, one thread"
    found = {"device": card, "python": platform.python_version()}
    for package in ("torch", "transformers", "vllm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def text(report: dict[str, Any]) -> str:
    """The report as Markdown: one table a measure."""
    lines = [", ".join(f"{name} {value}" for name, value in report["machine"].items()), ""]
    for name, rows in report["measures"].items():
        lines += [f"### {name} ({report['seconds'].get(name, 0):.0f} s)", ""]
        columns = list(dict.fromkeys(column for row in rows for column in row if column != "traceback"))
        if not rows:
            lines += ["No row.", ""]
            continue
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in rows:
            lines.append("| " + " | ".join(cell(row.get(column)) for column in columns) + " |")
        lines.append("")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A number with four digits, any other value as text in one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return " ".join(str(value).replace("|", "/").split())


if __name__ == "__main__":
    raise SystemExit(main())
