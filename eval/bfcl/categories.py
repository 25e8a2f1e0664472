"""The benchmark's categories by the names the leaderboard gives them."""

import difflib

from ...store.errors import ConfigError

NON_LIVE_AST = ("simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple")
LIVE_AST = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
RELEVANCE = ("irrelevance", "live_irrelevance", "live_relevance")
SINGLE_TURN = NON_LIVE_AST + LIVE_AST + RELEVANCE

GROUPS = {
    "non_live": (*NON_LIVE_AST, "irrelevance"),
    "live": (*LIVE_AST, "live_irrelevance", "live_relevance"),
    "single_turn": SINGLE_TURN,
}


def categories_named(names: list[str]) -> list[str]:
    """Categories and groups (`non_live`, `live`, `single_turn`) as categories, each once, in the given order.

    Raises ConfigError for a name that is neither.
    """
    chosen: dict[str, None] = {}
    for name in names:
        if name not in GROUPS and name not in SINGLE_TURN:
            known = [*GROUPS, *SINGLE_TURN]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
            raise ConfigError(f"There is no single-turn BFCL category {name!r}.", hint)
        chosen.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return list(chosen)
