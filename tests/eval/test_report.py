"""The report is one file, loads nothing, shows what the store holds, and escapes what policies wrote."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, StoreNotFound
from rollhouse.eval.report import StageResult, stages_of_runs, write_report
from rollhouse.eval.rows import evaluation_id
from rollhouse.eval.summary import CategoryScore, summarize
from rollhouse.store.appending import append_rows
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run

HOSTILE = "</script><script>alert('owned')</script><img src=http://evil.example/x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would see: tags with attributes, text outside scripts, and the charts' data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.charts: list[dict] = []
        self.inside: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = (tag, dict(attrs))
        self.tags.append(self.inside)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self.inside
        if tag == "script" and attributes.get("type") == "application/json":
            self.charts.append(json.loads(data))
        elif tag not in ("script", "style"):
            self.text += data


def _rollout(run: str, number: int, step: int | None, reward: float, text: str) -> dict:
    call = Message("assistant", None, (ToolCall("c", "delete", '{"id": 4}'),))
    messages = [call, Message("tool", "[]", tool_call_id="c"), Message("assistant", text)]
    return {
        "rollout_id": f"{run}-{number}",
        "slot_id": f"{run}-{number}",
        "attempt": 0,
        "run_id": run,
        "task_id": f"task-{number % 3}",
        "prompt_id": "p",
        "step": step,
        "reward": reward,
        "passed": reward > 0.5,
        "status": "completed",
        "n_sampled_tokens": 10,
        "messages": [message.to_row() for message in messages],
    }


def _case(run: str, policy: str, mode: str, case: int, passed: bool, benchmark: str = "office") -> dict:
    return {
        "row_id": evaluation_id(run, benchmark, "x", str(case), mode, 0),
        "run_id": run,
        "benchmark": benchmark,
        "category": "x",
        "case_id": str(case),
        "mode": mode,
        "sample": 0,
        "policy_id": policy,
        "passed": passed,
        "score": float(passed),
        "error_type": None,
    }


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    store = LanceStore.create(tmp_path / "store")
    prompt = [Message("user", f"Delete it. {HOSTILE}").to_row()]
    append_rows(store, "prompts", [{"prompt_id": "p", "messages": prompt, "tools": "[]"}])
    with start_run(store, "grpo", "online") as run:
        rows = [
            _rollout("online", 10 * step + i, step, float(i < step), HOSTILE) for step in (1, 2, 3) for i in range(4)
        ]
        append_rows(store, "rollouts", rows)
        for step in (1, 2, 3):
            run.metrics(step, {"train/reward": step / 4, "train/loss": 1 / step, HOSTILE: step})
    with start_run(store, "eval", "before") as run:
        append_rows(store, "evaluations", [_case("before", "base", "greedy", case, case < 2) for case in range(10)])
        append_rows(store, "evaluations", [_case("before", "base", "fc", case, False, "bfcl") for case in range(3)])
    with start_run(store, "eval", "after") as run:
        append_rows(store, "evaluations", [_case("after", "tuned", "greedy", case, case < 7) for case in range(10)])
    return store


def test_one_file_that_loads_nothing(store: LanceStore, tmp_path: Path) -> None:
    stages = stages_of_runs(store, ["before", "after"])
    path = write_report(
        store, tmp_path / "new" / "r.html", title="T", stages=stages, runs=["online"], lineage_of="online"
    )
    html = path.read_text()
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed", "link", "base", "video", "audio")
        assert not {"src", "srcset", "data", "poster", "action"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy and "default-src 'none'" in policy and "http" not in policy
    assert html.count("plotly.js v") == 1
    assert not list(path.parent.glob("*.tmp"))


def test_what_a_policy_wrote_stays_text(store: LanceStore, tmp_path: Path) -> None:
    page = Page(write_report(store, tmp_path / "r.html", title=HOSTILE, runs=["online"]).read_text())
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 2 + len(page.charts)  # plotly, ours, and the data of each chart
    assert page.text.count(HOSTILE) >= 4  # title, heading, prompt, answer
    assert {trace["name"] for chart in page.charts for trace in chart["data"]} == {"online", "online train/reward"}


def test_the_charts_hold_the_numbers(store: LanceStore, tmp_path: Path) -> None:
    stages = [StageResult("base", sampled=summarize([_case("r", "p", "sampled", i, i < 3) for i in range(12)]))]
    page = Page(write_report(store, tmp_path / "r.html", title="T", stages=stages, runs=["online"]).read_text())
    bars, reward = page.charts[0]["data"][0], page.charts[1]["data"][0]
    assert (
        bars["x"] == ["base"] and bars["y"] == [0.25] and bars["error_y"]["array"][0] == pytest.approx(0.1306, abs=1e-4)
    )
    assert (reward["x"], reward["y"]) == ([1, 2, 3], [0.25, 0.5, 0.75])


def test_reward_of_a_run_without_metrics_comes_from_its_rollouts(store: LanceStore, tmp_path: Path) -> None:
    with start_run(store, "collect", "quiet"):
        append_rows(store, "rollouts", [_rollout("quiet", step, step, step / 10, "ok") for step in (1, 2, 3)])
    page = Page(write_report(store, tmp_path / "r.html", title="T", runs=["quiet"]).read_text())
    assert page.charts[0]["data"][0]["y"] == pytest.approx([0.1, 0.2, 0.3])


def test_stages_are_the_policies_of_eval_runs(store: LanceStore) -> None:
    before, after = stages_of_runs(store, ["before", "after"])
    assert (before.name, after.name) == ("before", "after")
    assert before.greedy and before.greedy.pass_rate == 0.2 and before.sampled is None
    assert before.bfcl == {"x": CategoryScore(0, 3)} and after.bfcl == {}
    assert after.greedy and after.greedy.pass_rate == 0.7
    row = {"row_id": "r", "checkpoint_id": "tuned@3", "run_id": "online", "weights_hash": "tuned", "step": 3}
    later = row | {"row_id": "s", "run_id": "again", "checkpoint_id": "again@3"}  # the same training, reproduced
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    append_rows(
        store, "checkpoints", [one | {"created_at": at} for one, at in zip((later, row), reversed(times), strict=True)]
    )
    assert [stage.name for stage in stages_of_runs(store, ["before", "after"])] == ["before", "online"]


def test_one_policy_on_two_environments_is_two_stages(store: LanceStore) -> None:
    with start_run(store, "eval", "elsewhere"):
        append_rows(store, "evaluations", [_case("elsewhere", "base", "greedy", i, i < 9, "shop") for i in range(10)])
    stages = stages_of_runs(store, ["before", "elsewhere", "after"])
    assert [stage.name for stage in stages] == ["before, office", "before, shop", "before", "after"]
    office, shop, bfcl, after = stages
    assert office.greedy and shop.greedy and (office.greedy.pass_rate, shop.greedy.pass_rate) == (0.2, 0.9)
    assert bfcl.bfcl == {"x": CategoryScore(0, 3)} and bfcl.greedy is None and office.bfcl == shop.bfcl == {}
    assert after.greedy and after.greedy.pass_rate == 0.7


def test_modes_of_the_leaderboard_are_not_added_up(store: LanceStore, tmp_path: Path) -> None:
    with start_run(store, "eval", "asked"):
        append_rows(store, "evaluations", [_case("asked", "base", "prompt", i, i < 2, "bfcl") for i in range(3)])
    (stage,) = stages_of_runs(store, ["before", "asked"])
    assert stage.bfcl == {"x": CategoryScore(0, 3)} and stage.bfcl_prompt == {"x": CategoryScore(2, 3)}
    page = write_report(store, tmp_path / "r.html", title="T", stages=[stage], runs=[]).read_text()
    assert "before, prompt mode" in page and "2 / 3" in page and "0 / 3" in page


def test_before_and_after_with_links_to_what_flipped(store: LanceStore, tmp_path: Path) -> None:
    for run, solved in (("first", range(4)), ("second", range(3, 40)), ("again", range(4))):
        with start_run(store, "eval", run):
            rows = [_rollout(run, number, None, float(number in solved), HOSTILE) for number in range(40)]
            append_rows(store, "rollouts", rows)
            cases = [_case(run, run, "greedy", number, number in solved, "shop") for number in range(40)]
            append_rows(store, "evaluations", [row | {"rollout_id": f"{run}-{row['case_id']}"} for row in cases])
    runs = ["online", "first", "before", "second", "again"]
    page = Page(write_report(store, tmp_path / "r.html", title="T", runs=runs).read_text())
    # `before` judged other cases and is in no pair; the others stand against the first.
    assert "0.100" in page.text and "+0.825" in page.text and "b is better" in page.text and "noise" in page.text
    assert "second against first: 39 cases flipped" in page.text and "again against first" not in page.text
    assert page.text.count("gained shop") + page.text.count("lost shop") == 20 and "and 19 more" in page.text
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links[:2] == ["#rollout-first-0", "#rollout-second-0"]  # of the case that was lost
    names = {attributes.get("id") for _, attributes in page.tags}
    assert {link[1:] for link in links if link} <= names
    alone = Page(write_report(store, tmp_path / "r.html", title="T", runs=["first", "online"]).read_text())
    assert "Before and after" not in alone.text


def test_the_best_pass_rate_is_of_one_environment(store: LanceStore, tmp_path: Path) -> None:
    with start_run(store, "eval", "elsewhere"):
        append_rows(store, "evaluations", [_case("elsewhere", "base", "greedy", i, i < 9, "shop") for i in range(10)])
    stages = stages_of_runs(store, ["before", "elsewhere", "after"])
    page = Page(write_report(store, tmp_path / "r.html", title="T", stages=stages).read_text())
    assert "70%best pass rate, greedy, officeafter, +50 points on before" in page.text
    assert "90%best pass rate, greedy, shopbefore" in page.text
    # Another mode is another scale: one greedy stage does not beat two sampled ones.
    rates = {"base": 3, "tuned": 6, "other": 11}
    scored = {name: summarize([_case("r", name, "m", i, i < rate) for i in range(12)]) for name, rate in rates.items()}
    stages = [StageResult(name, sampled=scored[name]) for name in ("base", "tuned")]
    stages.append(StageResult("other", greedy=scored["other"]))
    page = Page(write_report(store, tmp_path / "r.html", title="T", stages=stages).read_text())
    assert "50%best pass rate, sampledtuned, +25 points on base" in page.text


def test_unknown_run_and_nothing_at_all(store: LanceStore, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="onlin"):
        write_report(store, tmp_path / "r.html", title="T", runs=["onlin"])
    with pytest.raises(ConfigError, match="nothing to report"):
        write_report(store, tmp_path / "r.html", title="T")
    assert not (tmp_path / "r.html").exists()
