"""The leaderboard's formulas on small known counts."""

import pytest
from rollhouse.eval.bfcl.categories import MEMORY, MULTI_TURN, SINGLE_TURN
from rollhouse.eval.bfcl.formulas import leaderboard
from rollhouse.eval.summary import CategoryScore

COUNTS = {
    "simple_python": (3, 4), "simple_java": (1, 2), "simple_javascript": (1, 4), "multiple": (1, 2), "parallel": (3, 4),
    "parallel_multiple": (1, 4), "irrelevance": (4, 4),
    "live_simple": (2, 4), "live_multiple": (6, 10), "live_parallel": (0, 1), "live_parallel_multiple": (1, 1),
    "live_irrelevance": (9, 10), "live_relevance": (1, 2),
    "multi_turn_base": (1, 4), "multi_turn_miss_func": (0, 4), "multi_turn_miss_param": (1, 2), "multi_turn_long_context": (1, 4),
    "memory_kv": (3, 5), "memory_rec_sum": (1, 5),
}  # fmt: skip


def scores(leave_out: tuple[str, ...] = ()) -> dict:
    kept = {name: CategoryScore(*counts) for name, counts in COUNTS.items() if name not in leave_out}
    return {score.name: score for score in leaderboard(kept)}


def test_every_category_of_the_leaderboard_is_counted() -> None:
    assert set(COUNTS) == {*SINGLE_TURN, *MULTI_TURN, *MEMORY}


def test_version_3_by_hand() -> None:
    found = scores()
    non_live = ((0.75 + 0.5 + 0.25) / 3 + 0.5 + 0.75 + 0.25 + 1.0) / 5
    live = (2 + 6 + 0 + 1 + 9 + 1) / (4 + 10 + 1 + 1 + 10 + 2)
    turns = (0.25 + 0 + 0.5 + 0.25) / 4
    assert found["v3 non-live"].value == pytest.approx(non_live)
    assert found["v3 live"].value == pytest.approx(live)
    assert found["v3 overall"].value == pytest.approx((non_live + live + turns) / 3)
    assert found["v3 overall"].cases == sum(total for name, (_, total) in COUNTS.items() if name not in MEMORY)


def test_version_4_parts_by_hand_and_no_overall_without_the_agentic_ones() -> None:
    found = scores()
    assert found["v4 non-live AST"].value == pytest.approx((0.5 + 0.5 + 0.75 + 0.25) / 4)
    assert found["v4 live AST"].value == pytest.approx((2 + 6 + 0 + 1) / 16)
    assert found["v4 hallucination"].value == pytest.approx((1.0 + 0.9) / 2)
    assert found["v4 overall"].value is None
    assert found["v4 memory"].value is None and found["v4 memory"].missing == ("memory_vector",)
    assert found["v4 memory"].cases == 10
    lacking = ("web_search_base", "web_search_no_snippet", "memory_vector")
    assert found["v4 overall"].missing == found["v4 agentic"].missing == lacking


def test_version_4_agentic_by_hand() -> None:
    others = {"memory_vector": (1, 2), "web_search_base": (1, 4), "web_search_no_snippet": (0, 4)}
    counts = {name: CategoryScore(*pair) for name, pair in (COUNTS | others).items()}
    found = {score.name: score for score in leaderboard(counts)}
    assert found["v4 memory"].value == pytest.approx((0.6 + 0.5 + 0.2) / 3)
    assert found["v4 agentic"].value == pytest.approx((0.125 + (0.6 + 0.5 + 0.2) / 3) / 2)
    parts = (found["v4 non-live AST"], found["v4 live AST"], found["v4 hallucination"], found["v3, v4 multi-turn"])
    weighted = sum(weight * (part.value or 0.0) for weight, part in zip((0.1, 0.1, 0.1, 0.3), parts, strict=True))
    assert found["v4 overall"].value == pytest.approx(weighted + 0.4 * (found["v4 agentic"].value or 0.0))


def test_what_was_not_run_is_named_and_not_counted_as_zero() -> None:
    found = scores(("live_relevance", "multi_turn_base"))
    assert found["v3 live"].value is None and found["v3 live"].missing == ("live_relevance",)
    assert found["v3 overall"].missing == ("live_relevance", "multi_turn_base")
    assert found["v3 non-live"].value is not None and found["v4 live AST"].value is not None
