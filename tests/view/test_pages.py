"""The pages in a real Chromium: every page and key."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rollhouse.policies.types import Sampling
from rollhouse.queries.sql_store import SqlStore
from rollhouse.serve.calls import Call, CallFiles
from rollhouse.store.appending import append_rows
from rollhouse.store.messages import Message
from rollhouse.store.runs import start_run
from rollhouse.store.snapshots import create_snapshot
from rollhouse.tests.rows import STARTED, prompt_row, prompt_tokens_row, rollout_row, task_row
from rollhouse.tests.view.browser import NEEDS_CHROMIUM, first, opened
from rollhouse.tests.view.conftest import Site, fill, serving, validated
from rollhouse.transform.build import build_dpo
from rollhouse.transform.options import DpoOptions

pytestmark = NEEDS_CHROMIUM


def test_from_the_runs_to_a_token(page: Any, site: Site) -> None:
    opened(page, site, "store/runs", "runs")
    assert page.locator("tbody tr").count() == 2
    page.get_by_role("link", name="g", exact=True).click()
    page.get_by_role("link", name="4 rollouts →").click()
    page.wait_for_selector(".grid-body .grid-row a")
    assert "run=g" in page.url and page.locator(".grid-body [role=row]").count() == 4
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(".messages .call")
    assert "/rollout/" in page.url and page.get_by_text("add", exact=True).count()
    page.keyboard.press("t")
    page.wait_for_selector(".strip-scroll canvas")
    page.keyboard.press("x")
    assert "token=" in page.url and page.locator(".token-detail").inner_text().startswith("id ")
    page.go_back()
    page.go_back()
    page.wait_for_selector(".grid-body .grid-row a")
    assert "run=g" in page.url


def test_facets_and_words_make_the_filter_and_the_url_keeps_it(page: Any, site: Site) -> None:
    opened(page, site, "store/rollouts", "rollouts")
    page.get_by_role("checkbox", name="truncated").check()
    page.wait_for_url("**status=truncated**")
    page.locator(".grid-body [role=row]").nth(1).wait_for(state="detached")
    page.reload()
    page.wait_for_selector(".grid-body .grid-row a")
    page.get_by_role("checkbox", name="truncated").wait_for()
    assert (
        page.get_by_role("checkbox", name="truncated").is_checked()
        and page.locator(".grid-body [role=row]").count() == 1
    )
    page.get_by_label("Remove Status truncated").click()
    page.keyboard.press("/")
    page.keyboard.type("no such words")
    page.keyboard.press("Enter")
    page.get_by_text("No rollout fits the filter.").wait_for()


def test_keys_walk_through_turns_and_rollouts(page: Any, site: Site) -> None:
    rollout = first(site, "run=g&passed=true")
    opened(page, site, f"store/rollout/{rollout}?run=g&sort=-reward", "rollout")
    page.get_by_text("1 of 4").wait_for()
    for _ in range(2):
        page.keyboard.press("l")
    assert "turn=1" in page.url
    page.keyboard.press("h")
    assert "turn=0" in page.url
    page.keyboard.press("L")
    page.get_by_text("2 of 4").wait_for()
    assert rollout not in page.url and "run=g" in page.url
    page.keyboard.press("H")
    page.get_by_text("1 of 4").wait_for()
    page.wait_for_selector(".messages details")
    page.keyboard.press("e")
    assert page.locator("details[open]").count() == 0
    page.keyboard.press("E")
    assert page.locator("details:not([open])").count() == 0
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert page.locator("dialog[open] kbd").count() > 8
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.wait_for_url("**/group/**")
    page.get_by_text("They part at message").or_(page.get_by_text("All messages are the same.")).wait_for()
    page.keyboard.press("g")
    page.wait_for_url("**group=**")


@pytest.mark.parametrize("tab", ["messages", "tokens", "scores", "lineage", "raw"])
@pytest.mark.parametrize("kind", ["passed=true", "status=truncated", "run=c"])
def test_each_tab_of_a_good_a_truncated_and_a_failed_rollout(page: Any, site: Site, tab: str, kind: str) -> None:
    opened(page, site, f"store/rollout/{first(site, kind)}?tab={tab}", f"rollout-{tab}-{kind.split('=')[1]}")
    assert page.locator("h1").count() == 1 and not page.locator("main > .bad-notice").count()
    body = page.locator("main").inner_text()
    if kind == "run=c":
        assert "The engine ended." in body
    if kind == "status=truncated":
        assert "Cut short" in body
    if (kind, tab) == ("passed=true", "scores"):
        assert "exact: The sum has no unit." in body


def test_lineage_shows_the_uses_of_a_rollout(page: Any, site: Site) -> None:
    opened(page, site, f"store/rollout/{first(site, 'passed=true')}?tab=lineage")
    body = page.locator("main").inner_text()
    assert "trained on" in body and "g/step_1" in body and "demo, row 0" in body
    opened(page, site, f"store/rollout/{first(site, 'status=truncated')}?tab=lineage")
    body = page.locator("main").inner_text()
    assert "left out: zero_std" in body


def test_a_token_s_numbers_and_the_way_to_its_message(page: Any, site: Site) -> None:
    opened(page, site, f"store/rollout/{first(site, 'passed=true')}?tab=tokens&layer=ratio&token=4")
    detail = page.locator(".token-detail").inner_text()
    assert "engine -0.2500" in detail and "learner -0.7500" in detail and "below the bound 0.8" in detail
    page.keyboard.press("Enter")
    page.wait_for_selector("#turn-1")
    assert "turn=1" in page.url
    page.locator("#turn-1").get_by_role("link", name="tokens").click()
    page.wait_for_selector(".strip-scroll")
    assert "id 10, position 3" in page.locator(".token-detail").inner_text()


def test_a_run_leads_to_the_rollouts_of_its_steps(page: Any, site: Site) -> None:
    opened(page, site, "store/run/g", "run")
    body = page.locator("main").inner_text()
    assert "train/reward" in body and "g/step_2" in body and "zero_std" in body and "seed" in body
    page.locator(".charts .u-over").first.wait_for()
    chart = page.locator(".charts .u-over").first.bounding_box()
    page.mouse.move(chart["x"] + 5, chart["y"] + 50)
    page.mouse.down()
    page.mouse.move(chart["x"] + chart["width"] - 5, chart["y"] + 50, steps=5)
    page.mouse.up()
    page.wait_for_url("**step=1..2**")
    page.get_by_label("Add a metric").select_option("time/train")
    page.wait_for_url("**metric=time**")
    page.locator(".charts .u-over").nth(2).wait_for()
    page.locator(".scatter canvas").scroll_into_view_if_needed()
    scatter = page.locator(".scatter canvas").bounding_box()
    page.mouse.move(scatter["x"] + 46, scatter["y"] + 2)
    page.mouse.down()
    page.mouse.move(scatter["x"] + scatter["width"] - 14, scatter["y"] + 60, steps=5)
    page.mouse.up()
    page.locator(".grid-body .grid-row a").first.wait_for()
    assert "reward=" in page.url and page.locator(".grid-body [role=row]").count() == 1, (
        "the one with the highest reward"
    )
    opened(page, site, "store/run/c", "run-failed")
    assert "The engine ended." in page.locator("main").inner_text()


def test_two_rollouts_are_compared(page: Any, site: Site) -> None:
    one, other = (first(site, query) for query in ("passed=true", "reason=zero_std"))
    opened(page, site, f"store/rollout/{one}")
    page.keyboard.press("m")
    opened(page, site, f"store/rollout/{other}")
    page.keyboard.press("d")
    page.wait_for_url(f"**diff/{one}?with={other}")
    page.get_by_text("They part at message 1").wait_for()
    assert (
        page.locator("mark").all_inner_texts() == ["1 and 2", "4 and 5"]
        and page.get_by_text("3 equal messages").count() == 1
    )
    page.keyboard.press("s")
    page.wait_for_url(f"**diff/{other}?with={one}")


def test_a_group_shows_its_rollouts_side_by_side(page: Any, site: Site) -> None:
    rollout = first(site, "passed=true")
    group = site.json(f"/api/store/rollout/{rollout}")["rollout"]["group_id"]
    opened(page, site, f"store/group/{group}", "group")
    body = page.locator("main").inner_text()
    assert "rewards differ" in body and "All messages are the same." in body and "trained on" in body
    assert page.locator("tbody tr").count() == 2
    rewards = page.locator("tbody tr td:nth-child(4)")
    assert rewards.all_inner_texts() == ["1", "0"]
    page.keyboard.press("s")
    page.wait_for_url("**sort=-advantage**")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.locator("tr[aria-current]").get_attribute("data-rollout") == rollout
    page.keyboard.press("e")
    assert page.locator("details[open]").count() == 0
    page.keyboard.press("L")
    page.get_by_text("2 of 2", exact=True).wait_for()
    assert (
        "no advantage" in page.locator("main").inner_text()
        and "left out: zero_std" in page.locator("main").inner_text()
    )
    page.keyboard.press("H")
    page.get_by_text("1 of 2", exact=True).wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/rollout/**")
    opened(page, site, f"store/group/{site.json('/api/store/rollouts?run=c')['rows'][0]['group_id']}", "group-failed")
    assert "in no batch" in page.locator("main").inner_text()


def test_a_dataset_leads_to_its_rollouts_and_says_what_it_left_out(page: Any, site: Site) -> None:
    opened(page, site, "store/datasets", "datasets")
    page.get_by_role("link", name="demos@1", exact=True).click()
    page.get_by_role("region", name="Rows").wait_for()
    page.get_by_role("region", name="Left out").get_by_role("link", name="1").click()
    page.wait_for_url("**list=dropped**reason=**")
    page.locator("td.warn").get_by_text("reward below 1").wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/rollout/**")
    page.go_back()
    page.get_by_role("link", name="rows", exact=True).click()
    page.locator("td", has_text="sums").wait_for()
    opened(page, site, "store/dataset/demos@7")
    assert "There is no dataset 'demos@7'" in page.locator("main").inner_text()


def test_a_pair_shows_the_chosen_beside_the_rejected(page: Any, tmp_path: Path) -> None:
    store = SqlStore.create(tmp_path / "store")
    said = [
        {"role": "assistant", "text": None, "parts": None, "reasoning": None, "tool_call_id": None,
         "tool_calls": [{"id": f"c{at}", "name": "add", "arguments": json.dumps({"a": at})}]} for at in range(4)
    ]  # fmt: skip
    ids = [[10, 11 + at, 12, 13] for at in range(4)]
    rows = [rollout_row("c", at, messages=[said[at]], token_ids=ids[at], reward=float(at > 1), passed=at > 1) for at in range(4)]  # fmt: skip
    append_rows(store, "prompts", [prompt_row()])
    append_rows(store, "prompt_tokens", [prompt_tokens_row()])
    append_rows(store, "tasks", [task_row()])
    append_rows(store, "rollouts", rows)
    create_snapshot(store, "s")
    build_dpo(store, "pairs", "s", DpoOptions())
    for site in serving({"store": store}):
        opened(page, site, "store/dataset/pairs@1")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/diff/**pair=pairs**")
        page.get_by_text("pair 0 of pairs@1").wait_for()
        first = page.get_by_role("region", name="First differences")
        first.get_by_text("Token 4").wait_for()
        assert "Call 1" in first.inner_text() and first.locator("code").count() == 4
        assert page.locator(".sides").first.locator(".good-chip").first.inner_text() == "chosen"
        page.keyboard.press("s")
        page.wait_for_url("**pair=pairs**")
        page.locator(".sides .chips .bad-chip", has_text="rejected").wait_for()
        page.keyboard.press("s")
        page.get_by_label("Next pair").click()
        page.get_by_text("pair 1 of pairs@1").wait_for()
        page.keyboard.press("H")
        page.get_by_text("pair 0 of pairs@1").wait_for()
        page.goto("about:blank")  # before its server ends


def test_runs_are_selected_and_compared(page: Any, tmp_path: Path) -> None:
    store = SqlStore.create(tmp_path / "store")
    append_rows(store, "prompts", [prompt_row()])
    append_rows(store, "tasks", [task_row()])
    for run_id, good in (("before", True), ("after", False)):
        with start_run(store, "eval", run_id, {}) as run:
            run.finish({})
        append_rows(store, "rollouts", [rollout_row(run_id, 0, passed=good, reward=float(good))])
    for site in serving({"store": store}):
        opened(page, site, "store/runs")
        page.keyboard.press("c")
        page.get_by_text("Select two runs first").wait_for()
        for name in ("before", "after"):
            page.get_by_label(f"Select {name} to compare").check()
        page.keyboard.press("c")
        page.wait_for_url("**/compare?run=before&run=after")
        page.get_by_role("region", name="Cases by run").wait_for()
        assert page.locator("tbody .verdict-noise").inner_text() == "noise"
        assert page.locator("td.bad, td .bad").all_inner_texts() == ["lost"]
        page.keyboard.press("f")
        page.wait_for_url("**flips=true**")
        page.keyboard.press("s")
        page.wait_for_url("**run=after&run=before**")
        page.locator("td .good", has_text="gained").wait_for()
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/diff/**")
        opened(page, site, "store/compare?run=before&run=nobody")
        assert "There is no run 'nobody'" in page.locator("main").inner_text()
        page.goto("about:blank")  # before its server ends


def test_validations_of_a_run_lead_to_the_tasks_that_changed(page: Any, tmp_path: Path) -> None:
    store = validated(tmp_path)
    for site in serving({"store": store}):
        opened(page, site, "store/run/g", "run-validations")
        section = page.get_by_role("region", name="Validations", exact=True)
        assert section.locator("tbody tr").count() == 2 and "50 %" in section.inner_text()
        section.get_by_role("link", name="against step 5").click()
        page.wait_for_url("**/compare?run=g-val-5&run=g-val-15")
        page.locator("td .bad", has_text="lost").wait_for()
        page.goto("about:blank")  # before its server ends


def test_sql_on_a_page(page: Any, site: Site) -> None:
    opened(page, site, "store/sql", "sql")
    page.fill("#query", "select rollout_id, reward from rollouts where passed")
    page.get_by_role("button", name="Run").click()
    page.wait_for_selector("tbody tr")
    page.locator("tbody a").click()
    page.wait_for_selector(".messages")
    opened(page, site, "store/sql?query=drop%20table%20rollouts")
    assert "DROP statement" in page.locator("[role=alert]").inner_text()


def test_an_empty_store_and_wrong_addresses_say_so(page: Any, tmp_path: Path) -> None:
    for empty in serving({"store": SqlStore.create(tmp_path / "store")}):
        for path, expected in [
            ("store/runs", "This store has no runs yet."), ("store/rollouts", "This store has no rollouts yet."),
            ("store/rollout/nobody", "There is no rollout 'nobody'"), ("store/group/nothing", "There is no group 'nothing'"), ("store/compare", "A comparison is of two runs or more."), ("store/datasets", "This store has no datasets yet."), ("store/nothing", "There is no such page."), ("other/runs", "There is no store “other” here."),
        ]:  # fmt: skip
            assert (
                expected
                in opened(page, empty, path, f"empty-{re.sub(r'[^a-z]', '-', path)}").locator("main").inner_text()
            )


def test_new_rollouts_appear_within_two_seconds(page: Any, tmp_path: Path) -> None:
    store = fill(tmp_path / "store")
    for site in serving({"store": store}):
        opened(page, site, "store/rollouts?sort=-started")
        page.get_by_text("5 rollouts").wait_for()
        append_rows(store, "rollouts", [rollout_row("later", 0, started_at=STARTED)])
        page.get_by_text("6 rollouts").wait_for(timeout=10_000)
        opened(page, site, "store/runs")
        with start_run(store, "collect", "now", {}):
            page.get_by_role("row", name="now").get_by_text("running").wait_for(timeout=10_000)
        page.get_by_role("row", name="now").get_by_text("finished").wait_for(timeout=10_000)


def test_a_rollout_is_starred_labelled_and_found_again(page: Any, tmp_path: Path) -> None:
    for site in serving({"store": fill(tmp_path / "store")}, read_only=False):
        rollout = first(site, "passed=true")
        opened(page, site, f"store/rollout/{rollout}")
        page.keyboard.press("s")
        page.get_by_role("button", name="Star the rollout", pressed=True).wait_for()
        page.keyboard.press("n")
        page.get_by_label("Label", exact=True).fill("leak")
        page.get_by_label("Note", exact=True).fill("<b>reads</b> the answer")
        page.get_by_label("Author").fill("ann")
        page.get_by_role("button", name="save").click()
        page.get_by_text("<b>reads</b> the answer").wait_for()
        page.get_by_role("button", name="Label message", exact=False).first.click()
        page.get_by_label("Label", exact=True).fill("good")
        page.get_by_role("button", name="save").click()
        page.get_by_role("button", name=re.compile("Take good off message")).wait_for()
        opened(page, site, "store/rollouts?label=leak", "labels")
        page.locator(".grid-body .grid-row a").first.wait_for()
        assert page.locator(".grid-body [role=row]").count() == 1
        opened(page, site, f"store/rollout/{rollout}")
        page.get_by_role("button", name="Take leak off the rollout").click()
        page.get_by_role("button", name="Take leak off the rollout").wait_for(state="detached")
        assert [row["label"] for row in site.json(f"/api/store/rollout/{rollout}")["labels"]] == [
            "star",
            "note",
            "good",
        ]


def test_a_viewer_that_only_reads_offers_no_label(page: Any, site: Site) -> None:
    opened(page, site, f"store/rollout/{first(site, 'passed=true')}")
    assert page.get_by_role("button", name=re.compile("label|Star", re.IGNORECASE)).count() == 0


def test_a_lane_leads_to_its_rollout(page: Any, site: Site) -> None:
    opened(page, site, "store/run/g?lane=1", "lanes")
    step = page.get_by_role("region", name="One step")
    step.locator(".lane").nth(1).wait_for()
    step.get_by_role("button", name="Next step").click()
    page.wait_for_url("**lane=2**")
    step.locator(".lane").first.click()
    page.wait_for_url("**/rollout/**")


def test_a_run_shows_what_its_server_has_open(page: Any, tmp_path: Path) -> None:
    store = fill(tmp_path / "store")
    with start_run(store, "collect", "agents", {}):
        files = CallFiles(store, "agents")
        asked = (Message("user", "What is <b>9</b> + 1?"),)
        files.add_call("desk-7", Call(0, None, "main", asked, (), Message("assistant", "10"), Sampling(), None, STARTED, 0.1))  # fmt: skip
        for site in serving({"store": store}):
            opened(page, site, "store/run/agents", "in-flight")
            section = page.get_by_role("region", name="In flight")
            section.get_by_text("desk-7").click()
            section.get_by_text("What is <b>9</b> + 1?").wait_for()
            files.remove("desk-7")
            section.wait_for(state="detached", timeout=10_000)
