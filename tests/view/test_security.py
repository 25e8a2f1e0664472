"""Other sites, names and networks cannot reach the server, and text of a rollout does not become markup."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from rollhouse.base.web import is_loopback
from rollhouse.queries.sql_store import SqlStore
from rollhouse.tests.view.conftest import Site, serving

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "view" / "app"
ORIGINS = ["https://evil.example", "http://evil.example:80", "null", "http://127.0.0.1:1"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8642", "localhost.evil.example", ""])
def test_a_foreign_name_is_refused(site: Site, host: str) -> None:
    for path in ("/", "/api/stores", "/app.js"):
        assert site.get(path, {"Host": host})[0] == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:9000", "[::1]:9000"])
def test_names_of_this_machine_are_served(site: Site, host: str) -> None:
    assert site.get("/api/stores", {"Host": host})[0] == 200


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_site_is_refused(site: Site, origin: str) -> None:
    assert site.get("/api/stores", {"Origin": origin})[0] == 403
    assert site.get("/api/stores", {"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert site.get("/api/stores", {"Origin": site.url, "Sec-Fetch-Site": "same-origin"})[0] == 200


def test_every_answer_carries_the_policy(site: Site) -> None:
    for path in (
        "/",
        "/app.js",
        "/app.css",
        "/api/stores",
        "/api/store/runs",
        "/nothing",
        "/api/store/nothing",
        "/api/nobody/runs",
    ):
        _, headers, _ = site.get(path)
        assert headers["Content-Security-Policy"].startswith(
            "default-src 'none'; script-src 'self'; style-src 'self';"
        ), path
        assert headers["X-Content-Type-Options"] == "nosniff" and "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "path", ["/..%2f..%2fpyproject.toml", "/server.py", "/static/app.js", "/%2e%2e/server.py", "/built-from.txt"]
)
def test_nothing_but_the_pages_is_a_file(site: Site, path: str) -> None:
    assert site.get(path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_reading_is_all_that_is_answered(site: Site, method: str) -> None:
    assert site.get("/api/store/runs", method=method, body=b"{}")[0] == 405


def test_beyond_loopback_a_key_is_needed(filled: SqlStore) -> None:
    for site in serving({"store": filled}, key="secret", hosts=["0.0.0.0"]):
        assert site.get("/api/stores")[0] == 401 and site.get("/")[0] == 401 and site.get("/?key=wrong")[0] == 401
        status, headers, _ = site.get("/?key=secret")
        assert status == 303 and headers["Location"] == "/"
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert site.get("/api/stores", {"Cookie": cookie.split(";")[0]})[0] == 200
        assert site.get("/api/stores", {"Cookie": "rollhouse_view=wrong"})[0] == 401


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("example.org", False),
    ],
)
def test_what_counts_as_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_the_page_makes_no_markup_from_text() -> None:
    """The elements are made by Preact, whose text is text; these are the ways around it."""
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|document\.write|\beval\(|new Function|srcdoc|\.html\("
    for file in (APP / "src").rglob("*.ts*"):
        assert not re.search(forbidden, file.read_text()), file
    assert not re.search(r"https?://(?!www\.w3\.org)", (ROOT / "view" / "static" / "index.html").read_text()), (
        "nothing comes from elsewhere"
    )


def test_the_built_pages_are_of_these_sources() -> None:
    """`make view` builds them; it was forgotten after a change when this fails."""
    sources = [
        "package.json",
        "package-lock.json",
        "build.mjs",
        *(f"src/{file.relative_to(APP / 'src')}" for file in (APP / "src").rglob("*") if file.is_file()),
    ]
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name}\n".encode() + (APP / name).read_bytes())
    assert (ROOT / "view" / "static" / "built-from.txt").read_text().strip() == digest.hexdigest()


def test_the_page_is_light() -> None:
    import gzip

    size = sum(len(gzip.compress(file.read_bytes())) for file in (ROOT / "view" / "static").iterdir())
    assert size < 500_000


def test_the_packages_are_pinned() -> None:
    lock = json.loads((APP / "package-lock.json").read_text())
    unsigned = [name for name, entry in lock["packages"].items() if name and not entry.get("integrity")]
    assert unsigned == []
