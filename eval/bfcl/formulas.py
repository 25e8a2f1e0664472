"""The leaderboard's published scores from accuracies of categories. A score that lacks a category is None; the category does not count as zero."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..summary import CategoryScore
from .categories import LIVE_AST, MULTI_TURN, NON_LIVE_AST, SIMPLE

WEB_SEARCH = ("web_search_base", "web_search_no_snippet")
MEMORY = ("memory_kv", "memory_vector", "memory_rec_sum")


@dataclass(frozen=True)
class LeaderboardScore:
    """One score of the leaderboard.

    Attributes:
        value: None when a category that the formula needs was not run; a slice of a category counts as the category.
        missing: The categories not run.
        cases: Cases behind the value.
    """

    name: str
    value: float | None
    missing: tuple[str, ...]
    cases: int


def leaderboard(scores: Mapping[str, CategoryScore]) -> list[LeaderboardScore]:
    """v3's overall with its three parts, and v4's parts with its overall.

    v3: the mean of non-live, live and multi-turn. v4: 0.10 non-live AST + 0.10 live AST + 0.10 hallucination + 0.30 multi-turn + 0.40 agentic,
    which is the mean of web search and memory.
    Non-live is a mean over categories (the three simple ones are one), live is weighted by cases.
    """
    non_live = _score("v3 non-live", scores, (*NON_LIVE_AST, "irrelevance"), _non_live)
    live = _score("v3 live", scores, (*LIVE_AST, "live_irrelevance", "live_relevance"), _weighted)
    turns = _score("v3, v4 multi-turn", scores, MULTI_TURN, _mean)
    non_live_ast = _score("v4 non-live AST", scores, NON_LIVE_AST, _non_live)
    live_ast = _score("v4 live AST", scores, LIVE_AST, _weighted)
    hallucination = _score("v4 hallucination", scores, ("irrelevance", "live_irrelevance"), _mean)
    web_search = _score("v4 web search", scores, WEB_SEARCH, _mean)
    memory = _score("v4 memory", scores, MEMORY, _mean)
    agentic = _overall("v4 agentic", [(0.5, web_search), (0.5, memory)])
    v4 = ((0.10, non_live_ast), (0.10, live_ast), (0.10, hallucination), (0.30, turns), (0.40, agentic))
    return [
        non_live,
        live,
        turns,
        _overall("v3 overall", [(1 / 3, part) for part in (non_live, live, turns)]),
        non_live_ast,
        live_ast,
        hallucination,
        web_search,
        memory,
        agentic,
        _overall("v4 overall", v4),
    ]


def _score(name: str, scores: Mapping[str, CategoryScore], needed: Sequence[str], formula) -> LeaderboardScore:
    missing = tuple(category for category in needed if category not in scores)
    cases = sum(scores[category].total for category in needed if category in scores)
    return LeaderboardScore(name, None if missing else formula(scores, needed), missing, cases)


def _overall(name: str, parts: Sequence[tuple[float, LeaderboardScore]]) -> LeaderboardScore:
    missing = tuple(dict.fromkeys(category for _, part in parts for category in part.missing))
    value = None if missing else sum(weight * (part.value or 0.0) for weight, part in parts)
    return LeaderboardScore(name, value, missing, sum(part.cases for _, part in parts))


def _mean(scores: Mapping[str, CategoryScore], needed: Sequence[str]) -> float:
    return fmean(scores[category].accuracy for category in needed)


def _weighted(scores: Mapping[str, CategoryScore], needed: Sequence[str]) -> float:
    total = sum(scores[category].total for category in needed)
    return sum(scores[category].correct for category in needed) / total if total else 0.0


def _non_live(scores: Mapping[str, CategoryScore], needed: Sequence[str]) -> float:
    others = [scores[category].accuracy for category in needed if category not in SIMPLE]
    return fmean([_mean(scores, SIMPLE), *others])
