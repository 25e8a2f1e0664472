"""Assembles and writes the report."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from ...base.errors import ConfigError, MissingExtra
from ...base.packages import install_command
from ...queries.verdicts import is_chosen
from ...store.lance_store import LanceStore
from ...store.lineage import lineage
from .before_after import before_after_section, compare_evaluations, flipped_rollouts
from .data import StageResult, pick_samples, read_runs
from .sections import (
    bfcl_section,
    category_section,
    lineage_section,
    run_section,
    sample_section,
    stage_section,
    tiles,
    training_section,
)

_HERE = Path(__file__).parent
# The content security policy prevents network access from the file.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(
    store: LanceStore,
    path: str | os.PathLike[str],
    *,
    title: str,
    stages: Sequence[StageResult] = (),
    runs: Sequence[str] = (),
    lineage_of: str | None = None,
    samples: int = 6,
    scorer: str | None = None,
) -> Path:
    """Writes one HTML file that opens without a network and follows the reader's light or dark theme; returns its path.

    Args:
        stages: Policies to compare, oldest first.
        runs: Run ids, for curves, the table of runs and sample rollouts; evaluations among them are compared with the first that judged the same cases.
        lineage_of: A checkpoint, run, dataset or snapshot whose tree is shown.
        samples: Maximum number of rollouts shown in full.
        scorer: NAME or NAME@VERSION whose verdicts the rollouts of `runs` carry (`stages` come with theirs, and curves of metrics stay as
            training logged them); None is those of collection time.

    Raises StoreNotFound for an unknown run, MissingExtra without plotly, ConfigError without content or for a scorer without verdicts.
    """
    facts = read_runs(store, runs, scorer)
    if not facts and not stages:
        raise ConfigError("There is nothing to report.", "Name at least one run; `rollhouse runs list` shows them.")
    comparisons = compare_evaluations(store, facts, scorer)
    shown = pick_samples(store, facts, samples, first=flipped_rollouts(comparisons))
    body = [
        tiles(stages, facts),
        stage_section(stages),
        before_after_section(comparisons, {sample.row["rollout_id"] for sample in shown}),
        training_section(facts),
        lineage_section(lineage(store, lineage_of) if lineage_of else None),
        category_section(stages),
        bfcl_section(stages),
        run_section(facts),
        sample_section(shown),
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(_page(title, _source(store, scorer), "".join(body)), encoding="utf-8")
    unfinished.replace(path)
    return path


def _source(store: LanceStore, scorer: str | None) -> str:
    return f"{store.uri} · verdicts of {scorer}" if is_chosen(scorer) else store.uri


def _page(title: str, source: str, body: str) -> str:
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    now = datetime.now(UTC)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(source)} · {now:%Y-%m-%d %H:%M} UTC</p></header>
<main>{body}</main>
<script>{_plotly()}</script>
<script>{script}</script>
</body>
</html>
"""


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise MissingExtra("The report's plots need plotly.", f"Run `{install_command('report')}`.") from error
    return get_plotlyjs()
