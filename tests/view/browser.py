"""A real Chromium for the tests of the pages, and pictures of them under $ROLLHOUSE_SCREENSHOTS.

A module of such tests sets `pytestmark = NEEDS_CHROMIUM`; its fixtures `browser` and `page` are in conftest.
"""

import os
from typing import Any

import pytest

from .conftest import CHROMIUM, Site

NEEDS_CHROMIUM = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]


def opened(page: Any, site: Site, path: str, name: str | None = None) -> Any:
    """The page at a path once it has loaded, pictured under a name."""
    page.goto("about:blank")
    page.goto(f"{site.url}/#/{path}")
    page.wait_for_selector("main > *")
    page.wait_for_selector(".spinner", state="detached")
    folder = os.environ.get("ROLLHOUSE_SCREENSHOTS")
    if folder and name:
        page.screenshot(path=f"{folder}/{name}.png")
    return page


def first(site: Site, query: str) -> str:
    return site.json(f"/api/store/rollouts?{query}&sort=reward")["rows"][0]["rollout_id"]
