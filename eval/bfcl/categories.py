"""The benchmark's categories, by their names in the leaderboard."""

import difflib

from ...base.errors import ConfigError

MODES = ("fc", "prompt")
"""Functions offered as tools, or described in the system prompt with the calls read from the text."""

SIMPLE = ("simple_python", "simple_java", "simple_javascript")
NON_LIVE_AST = (*SIMPLE, "multiple", "parallel", "parallel_multiple")
LIVE_AST = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
RELEVANCE = ("irrelevance", "live_irrelevance", "live_relevance")
SINGLE_TURN = NON_LIVE_AST + LIVE_AST + RELEVANCE
MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
MEMORY = ("memory_kv", "memory_rec_sum")
"""Questions about what the policy wrote down in the sessions before; memory_kv also searches it, with rank_bm25."""
FORMAT_SENSITIVITY = "format_sensitivity"
"""Prompt mode only; in no overall score of the leaderboard."""

NOT_RUN = {
    "web_search_base": "it searches the live web",
    "web_search_no_snippet": "it searches the live web",
    "memory_vector": "it needs sentence-transformers and a model from the hub",
}
"""Categories of the leaderboard that rollhouse cannot run, and why."""

GROUPS = {
    "non_live": (*NON_LIVE_AST, "irrelevance"),
    "live": (*LIVE_AST, "live_irrelevance", "live_relevance"),
    "single_turn": SINGLE_TURN,
    "multi_turn": MULTI_TURN,
    "memory": MEMORY,
    "all": SINGLE_TURN + MULTI_TURN + MEMORY,
}


def categories_named(names: list[str], mode: str = "fc") -> list[str]:
    """Categories and groups (`non_live`, `live`, `single_turn`, `multi_turn`, `memory`, `all`) as categories, each once, in the given order.

    Raises ConfigError for an unknown name or mode, and for a category that cannot be run (in this mode).
    """
    if mode not in MODES:
        raise ConfigError(f"There is no BFCL mode {mode!r}.", f"Modes are {' and '.join(MODES)}.")
    chosen: dict[str, None] = {}
    known = list(dict.fromkeys([*GROUPS, *GROUPS["all"], FORMAT_SENSITIVITY]))
    for name in names:
        if name in NOT_RUN:
            raise ConfigError(f"BFCL's {name} cannot be run here: {NOT_RUN[name]}.", f"Known are {', '.join(known)}.")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
            raise ConfigError(f"There is no BFCL category {name!r}.", hint)
        if name == FORMAT_SENSITIVITY and mode != "prompt":
            raise ConfigError("format_sensitivity is about forms of a prompt.", "Add --mode prompt.")
        chosen.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return list(chosen)


def is_played(category: str) -> bool:
    """Whether its cases take several model calls, with simulated backends."""
    return category in MULTI_TURN or category in MEMORY
