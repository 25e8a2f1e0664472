"""The pictures of the GRPO benchmarks as SVG text: learning curves, and how a step's time grows. Lines are named where they end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 44
COLOURS = ("#1b6ca8", "#c2571a", "#3f8f4f", "#8a4fa3", "#777777")
Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a panel; `errors`, parallel to points, are drawn as bars of that length up and down."""

    name: str
    points: Points
    colour: str
    errors: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes with lines."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    width: int = WIDTH
    labels: int = 0
    """Room at the right for the names of the lines; 0 names none."""


def growth_picture(grown: Mapping[str, Mapping[str, Points]]) -> str:
    """Seconds a step by what grows and side, a panel each, from zero."""
    titles = {"group": "rollouts a prompt", "new_tokens": "sampled tokens a rollout", "prompts": "prompts a step"}
    panels = []
    for number, (what, sides) in enumerate(grown.items()):
        last = number == len(grown) - 1
        lines = [Line(name, points, COLOURS[i]) for i, (name, points) in enumerate(sides.items())]
        panels.append(Panel(titles[what], titles[what], "seconds a step" if number == 0 else "", lines, labels=130 if last else 0))  # fmt: skip
    return picture(panels, top=True)


def picture(panels: Sequence[Panel], top: bool = False) -> str:
    """Panels side by side; with `top` all share one scale that starts at zero, else each starts below its lowest point."""
    ranges = [value_range(panel) for panel in panels]
    if top:
        ranges = [(0.0, max(high for _, high in ranges))] * len(panels)
    parts, at = [], 0
    for panel, (low, high) in zip(panels, ranges, strict=True):
        parts.append(f'<g transform="translate({at},0)">{draw(panel, low, high)}</g>')
        at += panel.width + panel.labels
    style = "text{font:12px system-ui,sans-serif;fill:#333}.t{font-weight:600}.l{font-size:11px}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {at} {HEIGHT}" width="{at}" height="{HEIGHT}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def value_range(panel: Panel) -> tuple[float, float]:
    """Lowest and highest value, error bars included."""
    found = []
    for line in panel.lines:
        errors = line.errors or [0.0] * len(line.points)
        found += [value + sign * error for (_, value), error in zip(line.points, errors, strict=True) for sign in (-1, 1)]  # fmt: skip
    return min(found), max(found)


def draw(panel: Panel, low: float, high: float) -> str:
    """Axes, grid, lines and their names."""
    xs = sorted({x for line in panel.lines for x, _ in line.points})
    ticks = steps_between(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0] or 1)
        up = (y - low) / (high - low or 1)
        return LEFT + across * (panel.width - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [text(LEFT, 20, panel.title, "t"), text((LEFT + panel.width) / 2, HEIGHT - 8, panel.x_label, "l", "middle")]
    parts.append(f'<text class="l" transform="translate(12,{HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(panel.y_label)}</text>')  # fmt: skip
    for tick in ticks:
        y = place(xs[0], tick)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{panel.width - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(text(LEFT - 6, y + 4, f"{tick:g}", "l", "end"))
    parts += [text(place(x, low)[0], HEIGHT - BOTTOM + 16, f"{x:g}", "l", "middle") for x in xs]
    for line in panel.lines:
        parts.append(one_line(line, place))
    if panel.labels:
        parts += names(panel, place)
    return "".join(parts)


def one_line(line: Line, place: Place) -> str:
    """The line with its points and error bars."""
    spots = [place(x, y) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    parts = [f'<path d="M{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>']
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{line.colour}"/>' for x, y in spots]
    for (x, y), error in zip(line.points, line.errors, strict=False):
        (across, above), (_, below) = place(x, y + error), place(x, y - error)
        parts.append(f'<path d="M{across:.1f} {above:.1f}V{below:.1f}" stroke="{line.colour}" opacity=".45"/>')
    return "".join(parts)


def names(panel: Panel, place: Place) -> list[str]:
    """The lines' names beside their ends, pushed apart where they would cover each other."""
    ends = sorted(((place(*line.points[-1])[1], line) for line in panel.lines), key=lambda end: end[0])
    found, last = [], -100.0
    for y, line in ends:
        last = max(y, last + 15)
        found.append(f'<text class="l" x="{panel.width - RIGHT + 8}" y="{last + 4:.1f}" style="fill:{line.colour}">{escape(line.name)}</text>')  # fmt: skip
    return found


def text(x: float, y: float, what: str, kind: str, anchor: str = "start") -> str:
    """A label."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(what)}</text>'


def steps_between(low: float, high: float) -> list[float]:
    """Round values from below `low` to `high`, about five."""
    raw = (high - low) / 5 or 1.0
    size = 10.0 ** len(str(int(raw))) if raw >= 1 else 1.0
    while size > raw:
        size /= 10
    size *= next(factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = int(low // size)
    return [round(number * size, 10) for number in range(first, int(high / size) + 1)]
