"""One self-contained HTML file about any runs: curves, tables, lineage, sample rollouts."""

from .data import StageResult, stages_of_runs
from .write import write_report

__all__ = ["StageResult", "stages_of_runs", "write_report"]
