"""A store with a bit of everything, and the viewer's server over it."""

import asyncio
import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.appending import append_rows
from rollhouse.store.runs import start_run
from rollhouse.tests.rows import STARTED, prompt_row, prompt_tokens_row, rollout_row, task_row

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
HOSTILE = (
    '<script>window.planted=1</script><img src=x onerror="window.planted=1"><svg onload="window.planted=1"></svg>'
    "[click](javascript:window.planted=1) <javascript:window.planted=1> ![i](http://203.0.113.9/p.png) \x1b[31mred\x1b]0;title\x07 \u202egnihton"
)
"""What a rollout may say to a page that believes it."""


@dataclass
class Site:
    """A running server: `get` and `post` give (status, headers, body as text)."""

    url: str

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: bytes | None = None
    ) -> tuple[int, Any, str]:
        """One request, without following redirects."""
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {}, method=method)
        opener = urllib.request.build_opener(_Stay)
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def json(self, path: str) -> Any:
        """The body of a request that succeeds."""
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def serving(stores: dict[str, SqlStore], **options: Any) -> Iterator[Site]:
    """The server in a thread of its own until the generator is closed."""
    from aiohttp import web
    from rollhouse.view.server import make_app

    loop, started, address = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(make_app(stores, **options), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(runner.addresses[0][1])
        started.set()
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(30)
    yield Site(f"http://127.0.0.1:{address[0]}")
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def fill(path: Path) -> SqlStore:
    """A store of a finished GRPO run with two steps, a failed collect run, verdicts, a dataset and a checkpoint."""
    store = SqlStore.create(path)
    texts = ["Add 1 and 2.", "Add 4 and 5.", "Add 7 and 8."]
    append_rows(store, "prompts", [prompt_row(text) for text in texts])
    append_rows(
        store,
        "tasks",
        [task_row(text, category) for text, category in zip(texts, ("sums", "sums", "long sums"), strict=True)],
    )
    append_rows(store, "prompt_tokens", [prompt_tokens_row(text) for text in texts])
    tokens = {
        "tokenizer_hash": "tok",
        "template_hash": "tpl",
        "n_prompt_tokens": 3,
        "n_tool_errors": 0,
        "prefix_ok": True,
        "started_at": STARTED,
    }
    known = [
        rollout_row("g", 0, step=1, **tokens),
        rollout_row("g", 1, step=1, **tokens, reward=0.0, passed=False),
        rollout_row("g", 0, text=texts[1], step=2, **tokens | {"policy_version": 1, "n_tool_errors": 2}, reward=0.5, passed=False),
        rollout_row("g", 1, text=texts[1], step=2, **tokens | {"policy_version": 0}, reward=0.5, passed=False, status="truncated", stop_reason="length"),
        rollout_row("c", 0, text=texts[2], n_tokens=None, n_sampled_tokens=None, started_at=STARTED, status="error", error_type="engine", error_message="The engine ended.", reward=None,
                    passed=None, token_ids=None, loss_mask=None, logprobs=None, messages=[]),
    ]  # fmt: skip
    append_rows(store, "rollouts", known)
    ids = [row["rollout_id"] for row in known]
    _train(store, known)
    with pytest.raises(RuntimeError), start_run(store, "collect", "c", {"engine": "scripted"}):
        raise RuntimeError("The engine ended.")
    score = {
        "scorer": "strict",
        "scorer_version": "2",
        "config_hash": "0",
        "run_id": "r",
        "created_at": STARTED,
        "components": [{"name": "exact", "value": 0.0, "weight": 1.0}],
        "rationale": "exact: The sum has no unit.",
    }
    append_rows(store, "scores", [score | {"row_id": "s", "rollout_id": ids[0], "reward": 0.0, "passed": False}])
    append_rows(store, "datasets", [_dataset(known)])
    return store


def _train(store: SqlStore, known: list[dict[str, Any]]) -> None:
    with start_run(store, "grpo", "g", {"model_name": "tiny", "dataset": "prompts@1", "grpo": {"seed": 3}}) as run:
        for step in (1, 2):
            run.metrics(
                step, {"train/reward": 0.25 * step, "train/loss": 1.0 / step, "time/generate": 2.0, "time/train": 1.0}
            )
        run.finish({"steps": 2})
    entry = {"kept": True, "reason": None, "micro_batch": 0}
    plans = {
        1: [entry | _of(known[0], 0.7), entry | _of(known[1], -0.7)],
        2: [{"kept": False, "reason": "zero_std", "micro_batch": None} | _of(row, 0.0) for row in known[2:4]],
    }
    settings = json.dumps({"learner": {"loss": {"clip_low": 0.2, "clip_high": 0.3}}})
    common = {"run_id": "g", "seed": 0, "settings": settings, "created_at": STARTED}
    append_rows(store, "batch_plans", [common | {"row_id": f"p{step}", "step": step, "policy_version": step - 1, "entries": rows} for step, rows in plans.items()])  # fmt: skip
    outcome = {
        "run_id": "g",
        "incarnation": 0,
        "step": 1,
        "use_index": 0,
        "trainer_logprobs": [-0.5, -0.75, -0.1],
        "entropies": [0.6, 1.25, 0.2],
        "ratio_mean": 0.9,
        "clipped_share": 0.3,
        "created_at": STARTED,
    }
    append_rows(
        store,
        "training_outcomes",
        [outcome | {"row_id": f"o{at}", "rollout_id": known[at]["rollout_id"]} for at in (0, 1)],
    )
    saved = {
        "run_id": "g",
        "incarnation": 0,
        "path": "/nowhere",
        "weights_hash": "w",
        "metrics": '{"train/reward": 0.25}',
        "created_at": STARTED,
    }
    append_rows(
        store,
        "checkpoints",
        [saved | {"row_id": f"k{step}", "checkpoint_id": f"g/step_{step}", "step": step} for step in (1, 2)],
    )


def _of(row: dict[str, Any], advantage: float) -> dict[str, Any]:
    return {
        "rollout_id": row["rollout_id"],
        "group_id": row["group_id"],
        "reward": row["reward"],
        "advantage": advantage,
    }


def _dataset(known: list[dict[str, Any]]) -> dict[str, Any]:
    chosen = {
        "rollout_id": known[0]["rollout_id"],
        "task_id": known[0]["task_id"],
        "branch": 0,
        "weight": 1.0,
        "role": "demo",
        "row": 0,
    }
    return {
        "row_id": "d", "name": "demos", "version": 1, "kind": "sft", "snapshot": "s", "scorer": "collected", "recipe": "{}", "fingerprint": "f",
        "rows": [chosen], "dropped": [{"id": known[1]["rollout_id"], "reason": "reward below 1"}], "n_rows": 1, "counts": "{}", "run_id": "b", "created_at": STARTED,
    }  # fmt: skip


def validated(path: Path) -> SqlStore:
    """A store of a GRPO run `g` that validated itself on two tasks after steps 5 and 15; it lost one of them."""
    store = SqlStore.create(path / "store")
    texts = ["Add 1 and 2.", "Add 4 and 5."]
    append_rows(store, "prompts", [prompt_row(text) for text in texts])
    append_rows(store, "tasks", [task_row(text) for text in texts])
    with start_run(store, "grpo", "g", {"model_name": "tiny"}) as run:
        run.finish({"steps": 15})
    for step, passed in ((15, (True, False)), (5, (True, True))):
        with start_run(store, "eval", f"g-val-{step}", {"run": "g", "step": step, "model_hash": None}) as run:
            rows = [rollout_row(run.run_id, 0, text=text, passed=good) for text, good in zip(texts, passed, strict=True)]  # fmt: skip
            append_rows(store, "rollouts", rows)
            run.finish({"pass_rate": sum(passed) / 2, "stderr": 0.5, "n": 2})
    with start_run(store, "eval", "other", {"run": "gg", "step": 5}) as run:
        run.finish({"pass_rate": 1.0})
    return store


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> SqlStore:
    """The store of `fill`; tests do not write to it."""
    return fill(tmp_path_factory.mktemp("view") / "store")


@pytest.fixture(scope="session")
def site(filled: SqlStore) -> Iterator[Site]:
    """The server over it."""
    yield from serving({"store": filled})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of 1280 by 800 that must not complain, run what was planted, or call elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=False)
    page = context.new_page()
    page.set_default_timeout(30_000)
    problems: list[str] = []
    page.on(
        "console",
        lambda message: (
            problems.append(message.text) if message.type == "error" and "status of 40" not in message.text else None
        ),
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: None if "//127.0.0.1:" in request.url else problems.append(f"called {request.url}")
    )
    yield page
    assert page.evaluate("() => window.planted") is None
    context.close()
    assert problems == []
