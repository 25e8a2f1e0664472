"""The Berkeley Function-Calling Leaderboard: rollhouse generates the answers, the checkers of `bfcl-eval` judge them in a separate process."""

from .categories import SINGLE_TURN, categories_named
from .checker import Checker, Verdict
from .evaluate import BfclSummary, evaluate_bfcl

__all__ = ["SINGLE_TURN", "BfclSummary", "Checker", "Verdict", "categories_named", "evaluate_bfcl"]
