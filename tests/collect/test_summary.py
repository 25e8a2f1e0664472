"""The summary's counters against the definitions."""

import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.collect.summary import CollectSummary, Tally
from rollhouse.queries.passk import pass_at_k
from rollhouse.store.rollout import Rollout

ROLLOUT = st.fixed_dictionaries(
    {
        "task_id": st.sampled_from("abcd"),
        "environment": st.sampled_from(["math", "workplace"]),
        "reward": st.none() | st.floats(-1e6, 1e6, width=32),
        "passed": st.booleans(),
    }
)


def made(**columns: Any) -> Rollout:
    if columns["reward"] is not None:
        return Rollout(messages=[], prompt_id="p", **columns)
    failed = {"passed": None, "status": "error", "error_type": "engine", "error_message": "It is down."}
    return Rollout(messages=[], prompt_id="p", **(columns | failed))


@settings(deadline=None)
@given(st.lists(ROLLOUT, min_size=1, max_size=40))
def test_running_counts_are_those_of_the_whole_list(rollouts: list[dict[str, Any]]) -> None:
    rows = [made(**one) for one in rollouts]
    summary = CollectSummary("r", len(rows))
    for one in rows:
        summary.add(one, category=one.task_id)
    rewards = [one.reward for one in rows if one.reward is not None]
    assert (summary.collected, summary.verdicts, summary.failed) == (len(rows), len(rewards), len(rows) - len(rewards))
    if rewards:
        assert summary.reward_mean == pytest.approx(statistics.fmean(rewards), abs=1e-6)
        assert summary.total.reward_std == pytest.approx(statistics.pstdev(rewards), rel=1e-6, abs=1e-3)
    output = summary.as_dict()
    assert sum(group["rollouts"] for group in output["groups"]) == len(rows)
    assert [entry["rollouts"] for entry in output["failures"]] == ([summary.failed] if summary.failed else [])
    counts: dict[str, list[bool]] = {}
    for one in rows:
        if one.reward is not None:
            counts.setdefault(one.task_id or "", []).append(bool(one.passed))
    for k, value in output["pass_at_k"].items():
        each = [pass_at_k(len(passes), sum(passes), int(k)) for passes in counts.values() if len(passes) >= int(k)]
        assert value == pytest.approx(statistics.fmean([one for one in each if one is not None]))
    assert set(output["pass_at_k"]) >= ({"1", str(max(map(len, counts.values())))} if counts else set())


def test_pass_at_k_counts_each_task_once() -> None:
    tally = Tally()
    for task_id, passed in [("a", True), ("a", False), ("a", False), ("a", False), ("b", True), ("b", True)]:
        tally.add(made(task_id=task_id, environment="math", reward=float(passed), passed=passed))
    assert tally.pass_at(1) == pytest.approx((0.25 + 1) / 2) and tally.pass_rate == 0.5
    assert tally.pass_at(2) == pytest.approx((0.5 + 1) / 2)
    assert tally.pass_at(4) == 1.0 and tally.pass_at(5) is None
    assert list(tally.pass_at_ks()) == ["1", "2", "4"]


def test_the_slowest_tool_is_kept() -> None:
    summary = CollectSummary("r", 2)
    for seconds in ({"search": 0.5}, {"search": 0.1, "write": 2.0}, {}):
        summary.saw_tools(seconds)
    assert summary.as_dict()["slowest_tool"] == {"tool": "write", "seconds": 2.0}
