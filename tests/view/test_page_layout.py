"""Every page in a real Chromium: what axe finds in both colour schemes, and its width from 400 to 3,840 pixels."""

import re
from pathlib import Path
from typing import Any

import pytest
from rollhouse.tests.view.browser import NEEDS_CHROMIUM, first, opened
from rollhouse.tests.view.conftest import Site, fill, serving

AXE = Path(__file__).resolve().parents[2] / "view" / "app" / "node_modules" / "axe-core" / "axe.min.js"
NEEDS_AXE = pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed (npm ci in view/app)")
pytestmark = NEEDS_CHROMIUM


def pages(site: Site) -> list[str]:
    """An address of every page."""
    rollout = first(site, "passed=true")
    return [
        "store/runs",
        "store/rollouts?run=g",
        "store/sql",
        "store/datasets",
        "store/dataset/demos@1",
        "store/compare?run=g%401&run=g",
        "store/run/g",
        f"store/group/{site.json(f'/api/store/rollout/{rollout}')['rollout']['group_id']}",
        f"store/diff/{rollout}?with={first(site, 'reason=zero_std')}",
        *(f"store/rollout/{rollout}?tab={tab}" for tab in ("messages", "tokens", "scores", "lineage", "raw")),
    ]


@NEEDS_AXE
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 400)])
def test_axe_finds_nothing_serious(browser: Any, site: Site, scheme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.set_default_timeout(30_000)
    found = {}
    for path in pages(site):
        opened(page, site, path)
        serious = serious_findings(page)
        if serious:
            found[path] = serious
    context.close()
    assert found == {}


@NEEDS_AXE
def test_axe_finds_nothing_serious_in_the_form_of_a_label(browser: Any, tmp_path: Path) -> None:
    for site in serving({"store": fill(tmp_path / "store")}, read_only=False):
        for scheme in ("light", "dark"):
            context = browser.new_context(color_scheme=scheme, bypass_csp=True)
            page = context.new_page()
            opened(page, site, f"store/rollout/{first(site, 'passed=true')}")
            page.keyboard.press("n")
            page.get_by_label("Label", exact=True).fill("leak")
            page.get_by_label("Author").fill("ann")
            assert serious_findings(page) == []
            page.get_by_role("button", name="save").click()
            page.get_by_role("button", name="Take leak off the rollout").wait_for()
            assert serious_findings(page) == []
            context.close()


def serious_findings(page: Any) -> list[str]:
    """What axe calls serious or critical on the page as it is now."""
    page.add_script_tag(path=str(AXE))
    result = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:160]} {one['nodes'][0]['failureSummary'][:300]}"
        for one in result["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("width", [400, 768, 3840])
def test_no_page_is_wider_than_the_window(browser: Any, site: Site, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(30_000)
    for path in pages(site):
        opened(page, site, path, f"wide-{width}-{re.sub('[^a-z]', '-', path.split('?')[0])}")
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), path
    context.close()
