"""A bundle opened from its files in a real Chromium: the pages of the server, without one."""

from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from rollhouse.queries.sql_store import SqlStore
from rollhouse.view.bundle import write_bundle
from rollhouse.view.reader import Reader
from rollhouse.view.rollouts import page_ids
from typer.testing import CliRunner

from .browser import NEEDS_CHROMIUM
from .conftest import fill, validated


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SqlStore:
    return fill(tmp_path_factory.mktemp("bundled") / "store")


def bundle(store: SqlStore, folder: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["view", "--store", store.uri, "--bundle", str(folder), *options])


def test_what_is_refused(store: SqlStore, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for folder, options, expected in [
        ("full", [], "is not an empty folder"),
        ("new", ["--run", "absent"], "There is no run 'absent'"),
        ("new", ["--max-rollouts", "2"], "a bundle takes at most 2"),
        ("new", ["--store", store.uri], "A bundle is of one store"),
    ]:
        done = bundle(store, tmp_path / folder, *options)
        assert done.exit_code == 2 and expected in " ".join(done.output.split()), done.output
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_no_path_of_this_machine_is_in_it(store: SqlStore, tmp_path: Path) -> None:
    done = bundle(store, tmp_path / "site", "--run", "g")
    assert done.exit_code == 0 and "1 runs with 4 rollouts" in done.stdout, done.output
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*") if path.suffix in (".js", ".html")]  # fmt: skip
    assert texts and not any(store.uri in text for text in texts)


@pytest.fixture(scope="module")
def bundled(store: SqlStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a bundle's files."""
    folder = tmp_path_factory.mktemp("bundle") / "site"
    write_bundle(store, folder)
    return (folder / "index.html").as_uri()


class TestInTheBrowser:
    pytestmark = NEEDS_CHROMIUM

    @pytest.fixture
    def page(self, browser: Any) -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(30_000)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page
        page.close()
        assert problems == []

    def test_from_the_runs_to_a_token(self, page: Any, bundled: str) -> None:
        page.goto(f"{bundled}#/store/runs")
        page.get_by_role("link", name="g", exact=True).first.click()
        page.get_by_role("region", name="One step").wait_for()
        page.get_by_role("link", name="4 rollouts →").click()
        page.locator(".grid-body .grid-row a").first.click()
        page.get_by_role("link", name="Tokens", exact=True).click()
        page.locator(".strip canvas, canvas").first.wait_for()
        page.get_by_role("link", name="Lineage", exact=True).click()
        page.get_by_text("checkpoint", exact=False).first.wait_for()

    @pytest.mark.parametrize(
        "query",
        ["", "run=g&sort=-reward", "status=truncated", "passed=~", "reward=0.5..", "kept=false", "reason=zero_std", "category=sums&sort=tokens", "errors=1..", "step=2", "dataset=demos", "q=add", "gap=no_task", "sort=-advantage"],
    )  # fmt: skip
    def test_the_filter_finds_what_the_server_finds(self, page: Any, bundled: str, store: SqlStore, query: str) -> None:
        parameters: dict[str, list[str]] = {}
        for part in filter(None, query.split("&")):
            parameters.setdefault(part.split("=")[0], []).append(part.split("=")[1])
        reader = Reader("store", store)
        expected = page_ids(reader, parameters)
        reader.close()
        page.goto(f"{bundled}#/store/rollouts?{query}")
        page.wait_for_function("() => document.querySelector('.grid-body') || document.querySelector('.empty')")
        links = page.locator(".grid-body .grid-row a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
        shown = [link.split("/rollout/")[1].split("?")[0] for link in links if "/rollout/" in link]
        assert shown == expected

    def test_what_it_lacks_is_said(self, page: Any, bundled: str) -> None:
        page.goto(f"{bundled}#/store/rollout/absent")
        page.get_by_text("This bundle does not hold that.").wait_for()
        assert page.get_by_role("link", name="SQL").count() == 0


def test_validations_come_with_their_run(tmp_path: Path) -> None:
    store = validated(tmp_path)
    run = next(row["run_id"] for row in store.sql("select run_id from runs where kind = 'grpo'").arrow().to_pylist())
    made = write_bundle(store, tmp_path / "site", [run])
    assert made.runs > 1 and (tmp_path / "site" / "index.html").is_file()
