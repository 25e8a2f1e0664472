"""One group: its numbers, what its batch made of it, and the tree of what its rollouts said."""

from pathlib import Path

import pytest
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.appending import append_rows
from rollhouse.tests.rows import prompt_row, rollout_row, task_row
from rollhouse.tests.view.conftest import Site, serving


def group_of(site: Site, query: str) -> dict:
    row = site.json(f"/api/store/rollouts?{query}&sort=reward")["rows"][0]
    return site.json(f"/api/store/group/{row['group_id']}")


def test_a_group_has_the_numbers_of_the_view_and_of_its_batch(site: Site, filled: SqlStore) -> None:
    answer = group_of(site, "step=1")
    [view] = filled.sql("SELECT * FROM groups WHERE step = 1").rows()
    assert (answer["n"], answer["mean"], answer["std"], answer["zero_variance"], answer["n_passed"]) == (
        view["n"], view["mean_reward"], view["std_reward"], view["zero_variance"], view["n_passed"],
    ) == (2, 0.5, 0.5, False, 1)  # fmt: skip
    assert [(row["reward"], row["kept"], row["trained"]) for row in answer["rows"]] == [(1.0, True, True), (0.0, True, True)]  # fmt: skip
    assert [row["advantage"] for row in answer["rows"]] == pytest.approx([0.7, -0.7])
    assert answer["task"]["category"] == "sums" and answer["near"] == {
        "previous": None, "next": answer["near"]["next"], "position": 0, "total": 2,
    }  # fmt: skip
    following = site.json(f"/api/store/group/{answer['near']['next']}")
    assert following["step"] == 2 and following["near"]["previous"] == answer["group_id"]


def test_a_group_that_was_left_out_says_why(site: Site) -> None:
    answer = group_of(site, "step=2")
    assert answer["zero_variance"] is True and answer["std"] == 0 and answer["left_out"] == {"zero_std": 2}
    assert [(row["kept"], row["reason"], row["trained"]) for row in answer["rows"]] == [(False, "zero_std", False)] * 2


def test_a_group_without_a_reward_has_no_mean(site: Site) -> None:
    answer = group_of(site, "run=c")
    assert (answer["mean"], answer["std"], answer["zero_variance"], answer["left_out"]) == (None, None, None, {})
    assert answer["rows"][0]["kept"] is None and answer["tree"]["messages"][0]["text"] == "Add 7 and 8."


def test_an_unknown_group_is_not_found(site: Site) -> None:
    status, _, body = site.get("/api/store/group/nothing")
    assert status == 404 and "There is no group" in body


def test_the_tree_parts_where_the_rollouts_do(tmp_path: Path) -> None:
    call = {"name": "add", "arguments": '{"a": 1}'}
    said = lambda role, text, *calls: {"role": role, "text": text, "parts": None, "reasoning": None, "tool_calls": list(calls), "tool_call_id": None}  # fmt: skip # noqa: E731
    asks = [said("assistant", None, call | {"id": f"call-{at}"}) for at in range(4)]  # an id of its own parts no one
    talks = [
        [asks[0], said("tool", "1"), said("assistant", "It is 1.")],
        [asks[1], said("tool", "1"), said("assistant", "It is 2." + "x" * 3_000)],
        [asks[2], said("tool", "1")],
        [said("assistant", "No.")],
        [asks[3], said("tool", "1"), said("assistant", "It is 1.")],
    ]
    rows = [rollout_row("c", at, messages=talk, reward=float(at)) for at, talk in enumerate(talks)]
    rows.append(rollout_row("c", 3, attempt=1, messages=talks[0], reward=1.0))
    store = SqlStore.create(tmp_path / "store")
    append_rows(store, "prompts", [prompt_row()])
    append_rows(store, "tasks", [task_row()])
    append_rows(store, "rollouts", rows)
    ids = [row["rollout_id"] for row in rows]
    for site in serving({"store": store}):
        answer = site.json(f"/api/store/group/{rows[0]['group_id']}")
        tree = answer["tree"]
        assert [row["final"] for row in answer["rows"]] == [True, True, True, False, True, True]
        assert answer["n"] == 5 and answer["mean"] == pytest.approx((0 + 1 + 2 + 1 + 4) / 5), "of each slot the last attempt"  # fmt: skip
        assert [message["text"] for message in tree["messages"]] == ["Add 1 and 2."] and tree["ends"] == []
        called, refused = tree["children"]
        assert refused["rollouts"] == refused["ends"] == [ids[3]] and set(called["rollouts"]) == {*ids} - {ids[3]}
        assert len(called["messages"]) == 2 and called["ends"] == [ids[2]] and called["first"] == 1
        same, other = called["children"]
        assert set(same["ends"]) == {ids[0], ids[4], ids[5]} and same["children"] == []
        assert other["ends"] == [ids[1]] and len(other["messages"][0]["text"]) == 2_000
        assert other["messages"][0]["more"] == 1_008, "what is cut off is counted"
