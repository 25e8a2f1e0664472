"""The table of rollouts: filters, orders, facets, and what surrounds one rollout."""

from urllib.parse import quote

import pytest
from rollhouse.queries.sql_store import SqlStore
from rollhouse.tests.view.conftest import Site


def found(site: Site, query: str) -> list[tuple[str, int]]:
    """(run, sample) of each rollout of the first page, in order."""
    return [
        (row["run_id"], row["step"] or 0, row["sample_index"])
        for row in site.json(f"/api/store/rollouts?{query}")["rows"]
    ]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("run=c", {("c", 0, 0)}),
        ("run=g&run=c", {("g", 1, 0), ("g", 1, 1), ("g", 2, 0), ("g", 2, 1), ("c", 0, 0)}),
        ("step=2", {("g", 2, 0), ("g", 2, 1)}),
        ("step=..1", {("g", 1, 0), ("g", 1, 1)}),
        ("reward=0.4..0.6", {("g", 2, 0), ("g", 2, 1)}),
        ("reward=~", {("c", 0, 0)}),
        ("status=truncated", {("g", 2, 1)}),
        ("passed=true", {("g", 1, 0)}),
        ("passed=~", {("c", 0, 0)}),
        ("category=long+sums", {("c", 0, 0)}),
        ("kept=false", {("g", 2, 0), ("g", 2, 1)}),
        ("kept=~", {("c", 0, 0)}),
        ("reason=zero_std&errors=1..", {("g", 2, 0)}),
        ("advantage=..-0.1", {("g", 1, 1)}),
        ("staleness=1", {("g", 2, 1)}),
        ("error=engine", {("c", 0, 0)}),
        ("tool=add&step=1", {("g", 1, 0), ("g", 1, 1)}),
        ("tool=subtract", set()),
        ("q=it+IS+3&step=1&passed=true", {("g", 1, 0)}),
        ("q=%22b%22%3A+2&step=1&passed=true", {("g", 1, 0)}),
        ("scorer=strict", {("g", 1, 0)}),
        ("scorer=strict@2:flipped", {("g", 1, 0)}),
        ("scorer=strict@2:passed", set()),
        ("scorer=strict@1", set()),
        ("dataset=demos@1", {("g", 1, 0)}),
        ("dataset=demos@2", set()),
        ("where=" + quote("n_tool_errors = 2 -- and a comment"), {("g", 2, 0)}),
        ("where=" + quote("reward = 0.5") + "&status=truncated", {("g", 2, 1)}),
    ],
)
def test_a_filter_finds_its_rollouts(site: Site, query: str, expected: set) -> None:
    answer = site.json(f"/api/store/rollouts?{query}&sort=reward")
    assert set(found(site, f"{query}&sort=reward")) == expected and answer["total"] == len(expected)


def test_the_copied_sql_finds_the_same_rollouts(site: Site, filled: SqlStore) -> None:
    answer = site.json("/api/store/rollouts?run=g&kept=false&q=it+is&sort=-errors")
    rows = filled.sql(answer["sql"]).rows()
    assert [row["rollout_id"] for row in rows] == [row["rollout_id"] for row in answer["rows"]] != []


def test_orders_and_pages(site: Site) -> None:
    descending = found(site, "run=g&sort=-reward")
    assert descending[0] == ("g", 1, 0) and descending[-1] == ("g", 1, 1)
    assert found(site, "run=g&sort=-reward&offset=1&limit=2") == descending[1:3]
    assert found(site, "sort=reward")[-1] == ("c", 0, 0), "what has no reward comes last in either direction"
    assert found(site, "sort=-reward")[-1] == ("c", 0, 0)


def test_marked_rollouts_come_first_with_their_marks(site: Site) -> None:
    rows = site.json("/api/store/rollouts")["rows"]
    assert rows[0]["marks"] == ["is_flipped", "is_mixed"]
    marks = {(row["run_id"], row["step"], row["sample_index"]): row["marks"] for row in rows}
    assert (
        marks["g", 2, 0] == ["has_errors"]
        and marks["g", 2, 1] == ["is_unfinished"]
        and marks["g", 1, 1] == ["is_mixed"]
    )


def test_a_row_holds_what_its_batch_made_of_it(site: Site) -> None:
    row = site.json("/api/store/rollouts?status=truncated&sort=reward")["rows"][0]
    assert (row["kept"], row["reason"], row["advantage"], row["staleness"], row["category"]) == (
        False,
        "zero_std",
        0.0,
        1,
        "sums",
    )


def test_facets_count_under_the_other_filters(site: Site) -> None:
    answer = site.json("/api/store/facets?run=g")
    counts = {name: {one["value"]: one["n"] for one in values} for name, values in answer["choices"].items()}
    assert counts["run"] == {"g": 4, "c": 1}, "a facet does not filter itself"
    assert counts["status"] == {"completed": 3, "truncated": 1}
    assert counts["passed"] == {"true": 1, "false": 3}
    assert counts["reason"] == {None: 2, "zero_std": 2}
    assert counts["category"] == {"sums": 4}
    assert answer["ranges"]["reward"] == {"low": 0.0, "high": 1.0, "bins": [1, 0, 0, 0, 0, 2, 0, 0, 0, 1]}
    assert answer["scorers"] == [{"value": "strict@2", "n": 1}] and answer["datasets"] == [{"value": "demos@1", "n": 1}]


def test_what_is_before_and_after_a_rollout(site: Site) -> None:
    ids = [row["rollout_id"] for row in site.json("/api/store/rollouts?run=g&sort=-reward")["rows"]]
    near = site.json(f"/api/store/near/{ids[1]}?run=g&sort=-reward")
    assert near == {"previous": ids[0], "next": ids[2], "position": 1, "total": 4}
    outside = site.json(f"/api/store/near/{ids[1]}?run=c")
    assert outside["position"] is None and outside["previous"] is None


@pytest.mark.parametrize(
    "query",
    [
        "sort=nonsense",
        "sort=tool",
        "reward=high",
        "passed=maybe",
        "offset=-1",
        "where=nothing+%3D+1",
        "started=yesterday..",
    ],
)
def test_a_wrong_filter_is_refused_in_two_sentences(site: Site, query: str) -> None:
    status, _, body = site.get(f"/api/store/rollouts?{query}")
    assert status == 400 and '"error"' in body and '"fix"' in body


@pytest.mark.parametrize(
    "text",
    [
        "1 = 1); drop table rollouts; --",
        "true) union select 1 --",
        "reward in (select * from read_csv('/etc/passwd'))",
        "true); copy rollouts to '/tmp/x' --",
    ],
)
def test_a_condition_that_does_more_than_choose_is_refused(site: Site, text: str) -> None:
    status, _, _ = site.get(f"/api/store/rollouts?sort=reward&where={quote(text)}")
    assert status == 400
