"""The datasets pages: versions, rows and their rollouts, what was left out, and differences."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.appending import append_rows
from rollhouse.store.snapshots import create_snapshot
from rollhouse.tests.rows import prompt_row, rollout_row, task_row
from rollhouse.tests.view.conftest import Site, serving
from rollhouse.transform.build import build_dpo, build_grpo, build_sft
from rollhouse.transform.options import DpoOptions, GrpoOptions, SftOptions


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store with two versions of an SFT set, a set of pairs and a set of prompts, made by the builders."""
    store = SqlStore.create(tmp_path_factory.mktemp("datasets") / "store")
    append_rows(store, "prompts", [prompt_row()])
    append_rows(store, "tasks", [task_row()])
    said = [{"role": "assistant", "text": f"It is {at}.", "parts": None, "reasoning": None, "tool_calls": [], "tool_call_id": None} for at in range(4)]  # fmt: skip
    rewards = [1.0, 0.9, 0.0, 0.0]
    append_rows(store, "rollouts", [rollout_row("c", at, messages=[said[at]], reward=reward, passed=reward > 0.5) for at, reward in enumerate(rewards)])  # fmt: skip
    create_snapshot(store, "s")
    build_sft(store, "demos", "s", SftOptions(min_reward=0.95))
    build_sft(store, "demos", "s", SftOptions(min_reward=0.5))
    build_dpo(store, "pairs", "s", DpoOptions())
    build_grpo(store, "tasks", "s", GrpoOptions())
    yield from serving({"store": store})


def test_every_version_is_listed_with_what_it_left_out(built: Site) -> None:
    rows = {row["label"]: row for row in built.json("/api/store/datasets")}
    assert set(rows) == {"demos@1", "demos@2", "pairs@1", "tasks@1"}
    assert (rows["demos@1"]["n_rows"], rows["demos@1"]["n_dropped"], rows["demos@1"]["trained"]) == (1, 3, 0)


def test_a_row_leads_to_its_rollout_and_what_was_left_out_has_its_reason(built: Site) -> None:
    answer = built.json("/api/store/dataset/demos@2")
    assert answer["versions"] == ["demos@1", "demos@2"] and answer["recipe"]["min_reward"] == 0.5
    rewards = {row["row"]: row["chosen"]["reward"] for row in answer["rows"]}
    assert sorted(rewards) == list(range(answer["n_rows"])) and min(rewards.values()) >= 0.5
    assert sum(one["n"] for one in answer["reasons"]) == answer["n_dropped"]
    left_out = built.json("/api/store/dataset/demos@1?list=dropped")["dropped"]
    assert len(left_out) == 3 and all(one["rollout"]["reward"] < 0.95 and one["task"]["category"] == "sums" for one in left_out)  # fmt: skip
    [reason] = {one["reason"] for one in left_out if one["rollout"]["reward"] == 0}
    some = built.json(f"/api/store/dataset/demos@1?list=dropped&reason={quote(reason)}")["dropped"]
    assert {one["reason"] for one in some} == {reason}
    assert [row["row"] for row in built.json("/api/store/dataset/demos@2?offset=1")["rows"]] == [1]


def test_a_pair_has_both_sides_and_a_prompt_its_task(built: Site) -> None:
    pair = built.json("/api/store/dataset/pairs@1")["rows"][0]
    assert pair["chosen"]["reward"] > pair["rejected"]["reward"]
    prompt = built.json("/api/store/dataset/tasks@1")["rows"][0]
    assert prompt["chosen"] is None and prompt["task"]["category"] == "sums"


def test_two_versions_differ_as_the_command_says(built: Site) -> None:
    answer = built.json("/api/store/dataset-diff/demos@1?with=demos@2")
    assert answer["in_both"] == 1 and answer["only_left"] == 0 and answer["only_right"] == answer["n_rows"] == len(answer["rows"])  # fmt: skip
    assert [one["option"] for one in answer["recipe"]] == ["min_reward"]
    status, _, body = built.get("/api/store/dataset-diff/demos@1?with=pairs@1")
    assert status == 400 and "of kind" in body


def test_wrong_names_are_refused(built: Site, site: Site) -> None:
    for path, code in (("demos", 400), ("demos@9", 404), ("demos@1?offset=x", 400)):
        status, _, body = built.get(f"/api/store/dataset/{path}")
        assert status == code and '"fix"' in body
    gone = site.json("/api/store/dataset/demos@1?list=dropped")["dropped"][0]
    assert gone["reason"] == "reward below 1" and gone["rollout"]["reward"] == 0


def test_a_row_whose_rollout_is_gone_says_so(tmp_path: Path) -> None:
    from rollhouse.tests.rows import STARTED

    store = SqlStore.create(tmp_path / "store")
    entry = {"rollout_id": "gone", "task_id": "t", "branch": 0, "weight": 1.0, "role": "demo", "row": 0}
    row = {"row_id": "d", "name": "x", "version": 1, "kind": "sft", "snapshot": "s", "scorer": "collected", "recipe": "{}", "rows": [entry], "dropped": [], "n_rows": 1}  # fmt: skip
    append_rows(store, "datasets", [row | {"created_at": STARTED}])
    for site in serving({"store": store}):
        [found] = site.json("/api/store/dataset/x@1")["rows"]
        assert found["chosen"] == {"rollout_id": "gone", "status": None} and found["task"] is None
