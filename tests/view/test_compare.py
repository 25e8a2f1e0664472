"""The compare page: runs and steps of runs against the first, with the numbers of `rollhouse eval compare`."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from rollhouse.eval.compare import compare_runs
from rollhouse.eval.rows import evaluation_id
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.appending import append_rows
from rollhouse.store.runs import start_run
from rollhouse.tests.rows import STARTED, prompt_row, rollout_row, task_row
from rollhouse.tests.view.conftest import Site, serving


@dataclass
class Compared:
    """A server, and the store behind it."""

    site: Site
    store: SqlStore


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    """Evaluations `before` and `after` of eight cases, of which seven are lost and one gained, and a run `g` of two steps over the same tasks."""
    store = SqlStore.create(tmp_path_factory.mktemp("compare") / "store")
    texts = [f"Add {at} and 1." for at in range(8)]
    append_rows(store, "prompts", [prompt_row(text) for text in texts])
    append_rows(store, "tasks", [task_row(text, "odd" if at % 2 else "even") for at, text in enumerate(texts)])
    for run_id in ("before", "after"):
        with start_run(store, "eval", run_id, {}) as run:
            run.finish({})
        passed = [(at == 0) == (run_id == "after") for at in range(8)]
        rows = [rollout_row(run_id, 0, text=text, passed=good, reward=float(good)) for text, good in zip(texts, passed, strict=True)]  # fmt: skip
        append_rows(store, "rollouts", rows)
        append_rows(store, "evaluations", [_evaluation(run_id, f"case-{at}", row) for at, row in enumerate(rows)])
    steps = [rollout_row("g", sample, text=text, step=step, passed=step == 1 and sample == 0) for step in (1, 2) for sample in (0, 1) for text in texts[:2]]  # fmt: skip
    append_rows(store, "rollouts", steps)
    for site in serving({"store": store}):
        yield Compared(site, store)


def _evaluation(run_id: str, case: str, row: dict) -> dict:
    known = {"run_id": run_id, "benchmark": "calculator", "category": "sums", "case_id": case, "mode": "greedy", "sample": 0}  # fmt: skip
    return {"row_id": evaluation_id(run_id, "calculator", "sums", case, "greedy", 0), "policy_id": run_id, "rollout_id": row["rollout_id"], "passed": row["passed"], "created_at": STARTED} | known  # fmt: skip


def test_two_evaluations_have_the_numbers_of_the_command(two: Compared) -> None:
    answer = two.site.json("/api/store/compare?run=before&run=after")
    [expected] = compare_runs(two.store, "before", "after").overall
    [told] = answer["comparisons"][0]["overall"]
    assert answer["of"] == "evaluations" and told["verdict"] == expected.verdict == "worse"
    assert {name: told[name] for name in ("n", "low", "high", "only_a", "only_b", "p")} == {
        "n": 8, "low": expected.low, "high": expected.high, "only_a": 7, "only_b": 1, "p": expected.p,
    }  # fmt: skip
    assert [case["change"] for case in answer["cases"]] == ["lost"] * 7 + ["gained"], "losses first"
    cells = answer["cases"][-1]["cells"]
    assert [cell["rate"] for cell in cells] == [0, 1] and all(cell["rollout_id"] for cell in cells)


def test_steps_of_a_run_are_compared_by_task(two: Compared) -> None:
    answer = two.site.json("/api/store/compare?run=g@1&run=g@2")
    assert answer["of"] == "rollouts" and answer["names"] == ["g@1", "g@2"] and answer["flipped"] == 2
    assert [[(cell["rate"], cell["n"]) for cell in case["cells"]] for case in answer["cases"]] == [[(0.5, 2), (0.0, 2)]] * 2  # fmt: skip
    assert {case["category"] for case in answer["cases"]} == {"even", "odd"}


def test_a_run_without_evaluations_is_compared_by_its_rollouts(two: Compared) -> None:
    answer = two.site.json("/api/store/compare?run=before&run=after&run=g@1")
    assert answer["of"] == "rollouts" and len(answer["comparisons"]) == 2
    assert answer["comparisons"][1]["only_in_a"] == 6
    missing = [case for case in answer["cases"] if case["cells"][2] is None]
    assert len(missing) == 6 and {case["change"] for case in missing} == {"same"}
    flips = two.site.json("/api/store/compare?run=before&run=after&run=g@1&flips=true")
    assert flips["total"] == flips["flipped"] == len(flips["cases"]) < answer["total"]
    later = two.site.json("/api/store/compare?run=before&run=after&offset=7")
    assert len(later["cases"]) == 1 and later["total"] == 8


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [("run=before", 400, "two to"), ("run=before&run=nobody", 404, "nobody"), ("run=before&run=g@x", 404, "g@x"), ("run=before&run=g@9", 400, "in common")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(two: Compared, query: str, code: int, says: str) -> None:
    status, _, body = two.site.get(f"/api/store/compare?{query}")
    assert status == code and says in body
