"""The rules of demonstrations beyond the first ones, one at a time on a few known rollouts."""

import pytest
from rollhouse.base.errors import ConfigError, EmptyDataset
from rollhouse.transform.build import build_sft
from rollhouse.transform.options import SftOptions

from .test_sft import reasons


def chosen(filled, **options) -> set[str]:
    dataset = build_sft(filled.store, "demos", filled.snapshot(), SftOptions(**options))
    return {row["rollout_id"] for row in dataset.references.to_dicts()}


def test_floors_of_single_environments_and_quantiles(filled) -> None:
    math = {reward: filled.rollout(f"m{reward}", reward, environment="math") for reward in (0.2, 0.4, 0.6, 0.8)}
    office = {reward: filled.rollout(f"o{reward}", reward) for reward in (0.3, 0.95)}
    snapshot = filled.snapshot()
    floors = build_sft(filled.store, "floors", snapshot, SftOptions(min_reward_of={"math": 0.5}))
    assert {row["rollout_id"] for row in floors.references.to_dicts()} == {math[0.6], math[0.8], office[0.95]}
    assert reasons(floors)[math[0.4]] == "reward below 0.5" and reasons(floors)[office[0.3]] == "reward below 0.9"
    upper = build_sft(filled.store, "upper", snapshot, SftOptions(min_reward_quantile=0.75))
    assert {row["rollout_id"] for row in upper.references.to_dicts()} == {
        math[0.6],
        math[0.8],
        office[0.3],
        office[0.95],
    }
    top = build_sft(filled.store, "top", snapshot, SftOptions(min_reward_quantile=1.0))
    assert {row["rollout_id"] for row in top.references.to_dicts()} == {math[0.8], office[0.95]}
    assert reasons(top)[office[0.3]] == "reward below its environment's 1 quantile"


def test_the_success_flag(filled) -> None:
    solved = filled.rollout("a", 0.95, passed=True)
    filled.rollout("b", 0.95, passed=False)
    assert chosen(filled, require_passed=True) == {solved}


def test_bounds_of_turns_and_tokens(filled) -> None:
    filled.rollout("a", 1.0, calls=0, n_tokens=5)
    fits = filled.rollout("b", 1.0, calls=2, n_tokens=50)
    filled.rollout("c", 1.0, calls=6, n_tokens=500)
    unknown = filled.rollout("d", 1.0, calls=2)
    assert chosen(filled, min_turns=2, max_turns=5) == {fits, unknown}
    dataset = build_sft(filled.store, "tokens", "s1", SftOptions(min_tokens=10, max_tokens=100))
    assert dataset.counts["dropped"] == {"fewer than 10 tokens": 1, "more than 100 tokens": 1}


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.2, 1), (0.5, 4), (None, 4)])
def test_recoveries_do_not_dominate(filled, share, kept) -> None:
    for index in range(4):
        filled.rollout(f"clean{index}", 1.0)
        filled.rollout(f"recovers{index}", 1.0, n_tool_errors=1)
    assert len(chosen(filled, max_recovery_share=share)) == 4 + kept


@pytest.mark.parametrize(("prefer", "first"), [("reward", "best"), ("short", "brief"), ("diverse", "brief")])
def test_the_best_of_n_under_the_cap(filled, prefer, first) -> None:
    best = filled.rollout("a", 1.0, 0, calls=3)
    brief = filled.rollout("a", 0.92, 1, calls=1)
    assert chosen(filled, per_task_cap=1, prefer=prefer) == {{"best": best, "brief": brief}[first]}


def test_categories_are_balanced(filled) -> None:
    for category, count in (("mail", 6), ("calendar", 2)):
        for index in range(count):
            filled.task(f"{category}{index}", category=category)
            filled.rollout(f"{category}{index}", 1.0)
    snapshot = filled.snapshot()
    quota = build_sft(filled.store, "quota", snapshot, SftOptions(max_per_category=3))
    assert quota.n_rows == 5 and quota.counts["dropped"] == {"over 3 of its category": 3}
    assert build_sft(filled.store, "even", snapshot, SftOptions(max_category_ratio=1.5)).n_rows == 5
    assert build_sft(filled.store, "same", snapshot, SftOptions(max_category_ratio=1)).n_rows == 4


def test_branches_of_an_episode_are_rows_and_count_as_one_under_the_cap(filled) -> None:
    branches = [filled.rollout("a", 1.0, index, episode_id="e1", branch=index) for index in range(3)]
    other = filled.rollout("a", 1.0, 5, calls=5)
    assert chosen(filled, per_task_cap=2) == {*branches, other}
    main = build_sft(filled.store, "main", "s1", SftOptions(branches="main"))
    assert {row["rollout_id"] for row in main.references.to_dicts()} == {branches[0], other}
    assert main.counts["dropped"] == {"another branch of its episode": 2}


def test_tools_without_a_schema_are_named_with_their_count(filled) -> None:
    filled.task("bare", tools=())
    filled.rollout("bare", 1.0)
    filled.rollout("bare", 1.0, 1)
    good = filled.rollout("a", 1.0)
    dataset = build_sft(filled.store, "demos", filled.snapshot())
    assert [row["rollout_id"] for row in dataset.references.to_dicts()] == [good]
    assert dataset.counts["dropped"] == {"it calls a tool its prompt has no schema for": 2}
    assert build_sft(filled.store, "all", "s1", SftOptions(require_tool_schemas=False)).n_rows == 3


def test_a_text_at_the_end(filled) -> None:
    from rollhouse.store.messages import Message, ToolCall

    called = [Message("assistant", "", (ToolCall("1", "send", "{}"),)), Message("tool", "ok", tool_call_id="1")]
    filled.rollout("a", 1.0, messages=[message.to_row() for message in called])
    answered = filled.rollout("b", 1.0)
    assert chosen(filled, require_final_text=True) == {answered}


def test_sql_names_what_goes_in_and_switches_the_other_rules_off(filled) -> None:
    low, high = filled.rollout("a", 0.2), filled.rollout("b", 1.0)
    unscored = filled.rollout("c", None)
    snapshot = filled.snapshot()
    query = "SELECT rollout_id FROM rollouts WHERE reward IS NULL OR reward < 0.5"
    dataset = build_sft(filled.store, "low", snapshot, SftOptions(sql=query))
    assert {row["rollout_id"] for row in dataset.references.to_dicts()} == {low, unscored} and dataset.recipe[
        "sql"
    ] == query
    assert reasons(dataset) == {high: "the recipe does not name it"}
    strict = SftOptions(sql="SELECT rollout_id FROM rollouts", min_reward=0.5, require_reward=True)
    assert build_sft(filled.store, "strict", snapshot, strict).n_rows == 1
    with pytest.raises(ConfigError, match="returns the columns reward"):
        build_sft(filled.store, "bad", snapshot, SftOptions(sql="SELECT reward FROM rollouts"))
    with pytest.raises(EmptyDataset, match="selects no rollout"):
        build_sft(filled.store, "bad", snapshot, SftOptions(sql="SELECT rollout_id FROM rollouts WHERE reward > 2"))


def test_a_python_function_over_a_lazy_frame(filled) -> None:
    filled.rollout("a", 1.0)
    two = filled.rollout("b", 1.0, calls=2)
    source = "import polars as pl\ndef long(frame):\n    return frame.filter(pl.col('n_tool_calls') > 1)\n"
    snapshot = filled.snapshot()
    dataset = build_sft(filled.store, "long", snapshot, SftOptions(function=source, function_name="long"))
    assert [row["rollout_id"] for row in dataset.references.to_dicts()] == [two] and dataset.recipe[
        "function"
    ] == source
    with pytest.raises(ConfigError, match="no function 'short'"):
        build_sft(filled.store, "bad", snapshot, SftOptions(function=source, function_name="short"))
    broken = "def long(frame):\n    return 1 / 0\n"
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        build_sft(filled.store, "bad", snapshot, SftOptions(function=broken, function_name="long"))


def test_rewards_that_are_no_numbers_empty_a_set_by_name(filled) -> None:
    filled.rollout("a", float("nan"))
    filled.rollout("b", float("nan"))
    with pytest.raises(EmptyDataset, match="'reward is NaN or infinite' dropped the last 2 of 2"):
        build_sft(filled.store, "demos", filled.snapshot())
