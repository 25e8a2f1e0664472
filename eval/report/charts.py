"""Figures as plain plotly data. Colours are named `series-N`: the page replaces them by those of its light or dark theme."""

from collections.abc import Sequence
from typing import Any

from .data import RunFacts, StageResult, reward_curve

Figure = dict[str, Any]
_SMALL_MULTIPLES = 12
# Counts, whose curves are not informative.
_REWARD_NAMES = ("train/reward", "train/reward_mean", "val/accuracy", "val/reward")


def pass_rates(stages: Sequence[StageResult]) -> Figure | None:
    """Pass rate per stage with error bars of one standard error; None when no stage was evaluated on an environment."""
    traces = []
    for number, (mode, label) in enumerate((("sampled", "sampled"), ("greedy", "greedy"))):
        points = [(stage.name, summary) for stage in stages if (summary := getattr(stage, mode)) is not None]
        if points:
            traces.append(
                {
                    "type": "bar",
                    "name": label,
                    "x": [name for name, _ in points],
                    "y": [summary.pass_rate for _, summary in points],
                    "error_y": {"type": "data", "array": [summary.stderr for _, summary in points], "thickness": 1.5},
                    "text": [f"{summary.pass_rate:.0%}" for _, summary in points],
                    "customdata": [[summary.n, summary.n_tasks] for _, summary in points],
                    "hovertemplate": "%{x}: %{y:.3f}<br>%{customdata[0]} samples of %{customdata[1]} tasks",
                    "marker": {"color": f"series-{number}"},
                }
            )
    return _figure(traces, y="pass rate", y_format=".0%", y_range=[0, 1.08], bars=True) if traces else None


def rewards(runs: Sequence[RunFacts]) -> Figure | None:
    """Reward over optimizer steps: a line for each online training run and its validation; None without one."""
    traces = []
    for facts in runs:
        curves = {name: facts.metrics[name] for name in _REWARD_NAMES if name in facts.metrics}
        if not any(name.startswith("train/") for name in curves) and reward_curve(facts)[0]:
            curves["train/reward"] = reward_curve(facts)
        for name, (steps, values) in curves.items():
            if len(steps) > 1:
                traces.append(_line(f"{facts.run_id} {name}", steps, values, len(traces)))
    return _figure(traces, x="optimizer step", y="reward") if traces else None


def other_metrics(runs: Sequence[RunFacts]) -> list[tuple[str, Figure]]:
    """A small figure for each other metric with a curve, at most twelve, the most common first.

    A run has the colour of its position in `runs` in all of them, so they share one legend.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    for number, facts in enumerate(runs):
        for name, (steps, values) in facts.metrics.items():
            if len(steps) > 1 and name not in _REWARD_NAMES:
                curves.setdefault(name, []).append(_line(facts.run_id, steps, values, number))
    ranked = sorted(curves.items(), key=lambda item: (-len(item[1]), not item[0].startswith("train/"), item[0]))
    return [(name, _figure(traces, small=True)) for name, traces in ranked[:_SMALL_MULTIPLES]]


def run_colour(position: int) -> str:
    """The colour of the run at this position."""
    return f"series-{position % 6}"


def _line(name: str, steps: list[int], values: list[float], number: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(steps) <= 30 else "lines",
        "name": name,
        "x": steps,
        "y": values,
        "line": {"color": run_colour(number), "width": 2},
        "marker": {"size": 5},
        "hovertemplate": "step %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
    }


def _figure(
    traces: list[dict[str, Any]],
    x: str = "",
    y: str = "",
    y_format: str = "",
    y_range: list[float] | None = None,
    bars: bool = False,
    small: bool = False,
) -> Figure:
    layout: dict[str, Any] = {
        "height": 180 if small else 360,
        "margin": {"l": 56, "r": 16, "t": 12, "b": 28 if small else 52},
        "xaxis": {"title": {"text": x}, "type": "category" if bars else "linear"},
        "yaxis": {"title": {"text": y}, "tickformat": y_format, "nticks": 4 if small else 6},
        "showlegend": len(traces) > 1 and not small,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
    }
    if bars:
        groups = max(len(trace["x"]) for trace in traces)
        layout |= {"barmode": "group", "bargap": 0.35 if groups > 2 else 0.7, "bargroupgap": 0.08}
    if y_range:
        layout["yaxis"]["range"] = y_range
    return {"data": traces, "layout": layout}
