"""A store whose every text column is hostile, on every page in a real Chromium: text stays text."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.appending import append_rows
from rollhouse.tests.rows import STARTED, prompt_row, rollout_row, task_row
from rollhouse.tests.view.browser import NEEDS_CHROMIUM, first, opened
from rollhouse.tests.view.conftest import HOSTILE, Site, serving

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store whose every text column holds what must not become markup."""
    store = SqlStore.create(tmp_path_factory.mktemp("hostile") / "store")
    call = {
        "id": HOSTILE,
        "name": HOSTILE,
        "arguments": '{"a": ' + repr(HOSTILE).replace("'", '"').replace('\\"', "").replace("\\x1b", "") + "}",
    }
    output = {
        "role": "assistant",
        "text": HOSTILE,
        "parts": HOSTILE,
        "reasoning": HOSTILE,
        "tool_calls": [call],
        "tool_call_id": None,
    }
    answer = {
        "role": HOSTILE,
        "text": HOSTILE,
        "parts": None,
        "reasoning": None,
        "tool_calls": [],
        "tool_call_id": HOSTILE,
    }
    tool = answer | {"role": "tool"}
    row = rollout_row("g", 0, step=1, started_at=STARTED, n_prompt_tokens=0)
    texts = [
        "run_id",
        "environment",
        "policy_id",
        "engine",
        "scorer",
        "scorer_version",
        "status",
        "stop_reason",
        "error_type",
        "error_message",
        "agent",
        "group_id",
        "logprobs_mode",
    ]
    row |= dict.fromkeys(texts, HOSTILE) | {
        "messages": [output, tool, answer],
        "gaps": [HOSTILE],
        "reward_components": [{"name": HOSTILE, "value": 1.0, "weight": 1.0}],
    }
    append_rows(store, "rollouts", [row])
    tools = (
        '[{"type": "function", "function": {"name": "<b>x</b>", "description": "<script>window.planted=1</script>"}}]'
    )
    append_rows(
        store,
        "prompts",
        [prompt_row() | {"messages": [answer | {"role": "system"}, answer | {"role": "user"}], "tools": tools}],
    )
    append_rows(store, "tasks", [task_row() | {"category": HOSTILE, "ground_truth": HOSTILE, "split": HOSTILE}])
    score = {
        "row_id": "s",
        "rollout_id": row["rollout_id"],
        "config_hash": HOSTILE,
        "reward": 0.0,
        "passed": False,
        "created_at": STARTED,
    }
    append_rows(
        store,
        "scores",
        [
            score
            | dict.fromkeys(["scorer", "scorer_version", "error_type", "run_id", "rationale"], HOSTILE)
            | {"components": row["reward_components"]}
        ],
    )
    entry = {
        "rollout_id": row["rollout_id"],
        "group_id": HOSTILE,
        "reward": 0.0,
        "advantage": 0.0,
        "kept": False,
        "reason": HOSTILE,
        "micro_batch": None,
    }
    append_rows(
        store,
        "batch_plans",
        [
            {
                "row_id": "p",
                "run_id": HOSTILE,
                "step": 1,
                "policy_version": 0,
                "entries": [entry],
                "settings": HOSTILE,
                "created_at": STARTED,
            }
        ],
    )
    dataset = {
        "row_id": "d",
        "version": 1,
        "rows": [],
        "dropped": [{"id": row["rollout_id"], "reason": HOSTILE}],
        "created_at": STARTED,
    }
    append_rows(store, "datasets", [dataset | dict.fromkeys(["name", "kind", "snapshot", "scorer", "recipe"], HOSTILE)])
    event = {
        "row_id": "e",
        "run_id": HOSTILE,
        "sequence": 0,
        "event": "started",
        "kind": HOSTILE,
        "name": HOSTILE,
        "incarnation": 0,
        "payload": '{"model": "<script>"}',
    }
    append_rows(store, "run_events", [event | {"created_at": STARTED}])
    yield from serving({"store": store})


@pytest.mark.parametrize(
    "tab",
    [
        "",
        "runs",
        "run",
        "rollouts",
        "group",
        "datasets",
        "dataset",
        "diff",
        "messages",
        "tokens",
        "scores",
        "lineage",
        "raw",
        "sql",
    ],
)
def test_text_of_a_rollout_stays_text(page: Any, hostile: Site, tab: str) -> None:
    rollout = first(hostile, "")
    path = {
        "": "store", "runs": "store/runs", "rollouts": "store/rollouts", "run": f"store/run/{quote(HOSTILE, safe='')}", "group": f"store/group/{quote(HOSTILE, safe='')}",
        "compare": f"store/compare?run={quote(HOSTILE, safe='')}&run={quote(HOSTILE, safe='')}@1", "datasets": "store/datasets", "dataset": f"store/dataset/{quote(HOSTILE, safe='')}@1?list=dropped", "diff": f"store/diff/{rollout}?with={rollout}",
        "sql": "store/sql?query=select%20messages%2C%20status%2C%20error_message%20from%20rollouts",
    }.get(tab, f"store/rollout/{rollout}?tab={tab}")  # fmt: skip
    opened(page, hostile, path, f"hostile-{tab}")
    page.keyboard.press("E")
    assert page.locator("main script, main img, main iframe, main object, main svg[onload]").count() == 0
    assert page.locator('a[href^="javascript" i]').count() == 0
    text = page.locator("main").inner_text()
    assert "\x1b" not in text and "\u202e" not in text
    if tab in ("messages", "raw", "sql", "group"):
        assert "<script>" in text and "␛" in text, "it is shown, not taken away"
