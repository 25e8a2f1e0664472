"""The parts of the page as HTML. Everything that came from a store goes through `escape`."""

from collections.abc import Sequence
from html import escape
from typing import Any

from ...base.json_text import to_json
from ...store.lineage import Node
from ...store.messages import Message
from .charts import Figure, other_metrics, pass_rates, rewards, run_colour
from .data import RunFacts, Sample, StageResult

_TEXT_LIMIT = 4000


def tiles(stages: Sequence[StageResult], runs: Sequence[RunFacts]) -> str:
    """The main numbers."""
    facts: list[tuple[str, str, str]] = []
    environments = list(dict.fromkeys(stage.environment for stage in stages if stage.sampled or stage.greedy))
    for environment in environments:
        facts.append(_best([stage for stage in stages if stage.environment == environment], len(environments) > 1))
    rollouts = sum(len(run.rollouts) for run in runs)
    tokens = sum(row["n_sampled_tokens"] or 0 for run in runs for row in run.rollouts)
    facts.append((f"{rollouts:,}", "rollouts", f"{tokens:,} sampled tokens"))
    steps = [max((max(steps) for steps, _ in run.metrics.values() if steps), default=0) for run in runs]
    facts.append((f"{sum(steps):,}", "optimizer steps", f"in {sum(last > 0 for last in steps)} training runs"))
    cells = [
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span><small>{escape(note)}</small></div>'
        for value, label, note in facts
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def _best(stages: Sequence[StageResult], several: bool) -> tuple[str, str, str]:
    """Number, label and note of one environment's best stage, in the mode of most of its stages; modes are not comparable."""
    mode = max(("sampled", "greedy"), key=lambda mode: sum(getattr(stage, mode) is not None for stage in stages))
    rated = [(stage, getattr(stage, mode).pass_rate) for stage in stages if getattr(stage, mode) is not None]
    stage, rate = max(rated, key=lambda item: item[1])
    first, before = rated[0]
    names = [one.name.removesuffix(f", {one.environment}") for one in (stage, first)]
    note = f"{names[0]}, {100 * (rate - before):+.0f} points on {names[1]}" if stage is not first else names[0]
    label = f"best pass rate, {mode}"
    return f"{rate:.0%}", f"{label}, {stage.environment}" if several else label, note


def stage_section(stages: Sequence[StageResult]) -> str:
    """Pass rate per stage: the chart, the table, and BFCL."""
    figure = pass_rates(stages)
    if figure is None:
        return ""
    header = ["stage", "sampled", "± se", "greedy", "± se", "mean reward", "pass@k", "tasks", "samples"]
    rows = []
    for stage in stages:
        first = stage.sampled or stage.greedy
        if first is None:
            continue
        rows.append(
            [
                stage.name,
                *_rate(stage.sampled),
                *_rate(stage.greedy),
                f"{first.mean_reward:.3f}",
                ", ".join(f"@{k} {value:.3f}" for k, value in first.pass_at_k.items()),
                str(first.n_tasks),
                str(first.n),
            ]
        )
    note = "Error bars are one standard error over tasks. Sampled is at the policy's sampling temperature, greedy at 0."
    return section("Pass rate per stage", _chart(figure) + table(header, rows, numbers_from=1), note)


def category_section(stages: Sequence[StageResult]) -> str:
    """Share passed by category and stage, for the environment."""
    shown = [(stage.name, (stage.sampled or stage.greedy)) for stage in stages]
    scores = {name: summary.by_category for name, summary in shown if summary is not None}
    return _score_table(
        "By category of task", scores, "Passed of samples, sampled where there is a sampled evaluation."
    )


def bfcl_section(stages: Sequence[StageResult]) -> str:
    """BFCL by category and stage."""
    scores = {}
    for stage in stages:
        modes = {stage.name: stage.bfcl, f"{stage.name}, prompt mode": stage.bfcl_prompt}
        scores |= {name: by for name, by in modes.items() if by}
    long = sum(score.errors.get("prompt_too_long", 0) for by in scores.values() for score in by.values())
    note = "Passed of cases, judged by the benchmark's own checkers; functions are tools except in columns of prompt mode. A slice of some categories is not an overall score."
    if long:
        note += f" {long} answers count as failed because the prompt is longer than the policy's context."
    return _score_table("Berkeley Function-Calling Leaderboard", scores, note)


def training_section(runs: Sequence[RunFacts]) -> str:
    """Reward over steps, then the other curves as small figures with one legend."""
    figure = rewards(runs)
    html = section("Reward over steps", _chart(figure)) if figure else ""
    small = other_metrics(runs)
    if small:
        shown = {trace["name"] for _, chart in small for trace in chart["data"]}
        marks = [
            f'<span><i style="background:var(--{run_colour(number)})"></i>{escape(facts.run_id)}</span>'
            for number, facts in enumerate(runs)
            if facts.run_id in shown
        ]
        cells = [f"<figure><figcaption>{escape(name)}</figcaption>{_chart(chart)}</figure>" for name, chart in small]
        legend = f'<div class="legend">{"".join(marks)}</div>'
        html += section("Training curves", f'{legend}<div class="grid">{"".join(cells)}</div>')
    return html


def run_section(runs: Sequence[RunFacts]) -> str:
    """One line per run."""
    header = ["run", "kind", "status", "started", "seconds", "rollouts", "mean reward"]
    rows = [
        [
            facts.run_id,
            facts.run["kind"],
            facts.run["status"],
            f"{facts.run['started_at']:%Y-%m-%d %H:%M:%S}",
            "" if facts.seconds is None else f"{facts.seconds:.1f}",
            f"{len(facts.rollouts):,}",
            "" if facts.mean_reward is None else f"{facts.mean_reward:.3f}",
        ]
        for facts in runs
    ]
    return section("Runs", table(header, rows, numbers_from=4)) if rows else ""


def lineage_section(root: Node | None) -> str:
    """The lineage of the checkpoint, as a tree."""
    if root is None:
        return ""
    note = "Read downwards: each entry was made from those under it."
    return section("Lineage", f'<ul class="tree">{_branch(root)}</ul>', note)


def sample_section(samples: Sequence[Sample]) -> str:
    """A few rollouts to read."""
    return (
        section("Sample rollouts", "".join(_sample(sample, open=sample is samples[0]) for sample in samples))
        if samples
        else ""
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """A table whose columns from `numbers_from` on are aligned right."""

    def cells(values: Sequence[str], tag: str) -> str:
        kinds = ["" if position < numbers_from else ' class="n"' for position in range(len(values))]
        return "".join(f"<{tag}{kind}>{escape(value)}</{tag}>" for kind, value in zip(kinds, values, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells(header, "th")}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _rate(summary: Any) -> list[str]:
    return [f"{summary.pass_rate:.3f}", f"{summary.stderr:.3f}"] if summary else ["", ""]


def _score_table(title: str, scores: dict[str, Any], note: str) -> str:
    names = sorted({name for by in scores.values() for name in by})
    if not names:
        return ""
    rows = [
        [name or "(none)", *(f"{by[name].correct} / {by[name].total}" if name in by else "" for by in scores.values())]
        for name in names
    ]
    return section(title, table(["category", *scores], rows, numbers_from=1), note)


def _branch(node: Node) -> str:
    # Rollouts and policies are named by labels, the others by ids.
    name = "" if node.kind in ("rollouts", "policy") else f"<b>{escape(node.id)}</b> "
    line = f'<span class="kind {escape(node.kind)}">{escape(node.kind)}</span> {name}{escape(node.label)}'
    inner = "".join(_branch(child) for child in node.children)
    return f"<li>{line}<ul>{inner}</ul></li>" if inner else f"<li>{line}</li>"


def _sample(sample: Sample, open: bool) -> str:
    row = sample.row
    verdict = "unjudged" if row["passed"] is None and row["reward"] is None else "passed" if row["passed"] else "failed"
    label = "no verdict" if verdict == "unjudged" else verdict
    reward = "no reward" if row["reward"] is None else f"reward {row['reward']:g}"
    step = "" if row["step"] is None else f" · step {row['step']}"
    title = (
        f'<span class="verdict {verdict}">{label}</span> {reward} · {escape(row["status"] or "")} · '
        f"run <b>{escape(row['run_id'])}</b>{step} <code>{escape(row['rollout_id'])}</code>"
    )
    messages = "".join(_message(message) for message in [*sample.prompt, *sample.messages])
    # A link to an inner element opens it; a link to the element itself does not.
    body = f'<div id="{escape(anchor(row["rollout_id"]))}" class="body">{messages}</div>'
    return f"<details{' open' * open}><summary>{title}</summary>{body}</details>"


def anchor(rollout_id: str) -> str:
    """The name by which a sample rollout is linked to."""
    return f"rollout-{rollout_id}"


def _message(message: Message) -> str:
    parts = [f"<p>{_text(text)}</p>" for text in (message.reasoning, message.text or message.parts) if text]
    parts += [f"<pre>{_text(call.name)}({_text(call.arguments)})</pre>" for call in message.tool_calls]
    role = escape(message.role)
    return f'<div class="message {role}"><span class="role">{role}</span><div>{"".join(parts) or "<p>(empty)</p>"}</div></div>'


def _text(text: str) -> str:
    if len(text) <= _TEXT_LIMIT:
        return escape(text)
    return escape(text[:_TEXT_LIMIT]) + f"<i> … {len(text) - _TEXT_LIMIT:,} more characters</i>"


def _chart(figure: Figure) -> str:
    # In a script element only "</" and "<!--" can end or change the data; JSON may escape "<".
    data = to_json(figure).replace("<", "\\u003c")
    height = figure["layout"]["height"]
    return f'<div class="chart" style="height:{height}px"><script type="application/json">{data}</script></div>'


def section(title: str, body: str, note: str = "") -> str:
    """A card of the page; `body` is HTML, `note` is text."""
    foot = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{body}{foot}</section>"
