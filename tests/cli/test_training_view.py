"""What a training shows while it runs."""

import math
import os

from rich.console import Console
from rollhouse.cli.training_view import TrainingPanel, sparkline


def drawn(panel: TrainingPanel, width: int = 90) -> str:
    out = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    out.print(panel.draw())
    return out.export_text()


def test_the_panel_shows_progress() -> None:
    now = [0.0]
    panel = TrainingPanel("mine", clock=lambda: now[0])
    assert "mine: starting" in drawn(panel)
    panel.progress(0, 8, "starting the engine")
    assert "starting the engine" in drawn(panel)
    panel.phase(1, "train")
    now[0] = 3.0
    assert "step 1: train, 3 s" in drawn(panel) and "0/8" in drawn(panel) and "ETA -:--:--" in drawn(panel)
    for step in range(1, 5):
        now[0] += 5.0
        numbers = {
            "train/reward": step / 10, "train/loss": -0.5, "train/grad_norm": 0.25, "tokens_per_s": 1234.0,
            "staleness/mean": 0.5, "staleness/max": 2.0, "groups/kept": 6.0, "groups/total": 8.0, "len/mean": 40.0,
            "truncation_rate": 0.125, "mismatch/logp_abs_diff": 0.0004, "time/step": 5.0, "time/train": 2.0,
            "time/wait": 2.5, "time/verify": 0.25, "time/overlap": 0.75, "checkpoint/step": 2.0,
        }  # fmt: skip
        if step % 2 == 0:
            numbers["val/accuracy"] = 0.5 + step / 100
        panel.numbers(step, numbers)
        panel.progress(step, 8, "reward")
    panel.phase(5, "wait")
    shown = drawn(panel)
    for part in ("mine", "4/8", "ETA 0:00:20", "step 5: wait, 0 s", "reward", "▁▃▆█ 0.400", "▁█ 0.540 at step 4", "1,234 tokens/s", "staleness 0.5, at most 2", "groups kept 6 of 8", "truncated 12%", "mismatch 0.0004", "last checkpoint: step 2", "last step 5.0 s: wait 2.50, train 2.00, verify 0.25"):  # fmt: skip
        assert part in shown, (part, shown)
    assert "overlap" not in shown
    assert max(map(len, drawn(panel, 40).splitlines())) <= 40


def test_a_curve_fills_its_height_and_leaves_gaps() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▅▅", "one value has no height"
    assert sparkline([0.0, math.nan, 7.0, math.inf, 3.0]) == "▁ █ ▄"


def test_a_long_curve_shows_its_end() -> None:
    panel = TrainingPanel("long", clock=lambda: 0.0)
    for step in range(1, 101):
        panel.numbers(step, {"train/reward": float(step > 60), "time/step": 1.0})
    assert "▅" * 40 in drawn(panel), "the last 40 are all 1"
