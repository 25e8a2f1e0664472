"""Keys and passwords are refused in settings, and stand in no message and no file of a store."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError, one_line
from rollhouse.base.redaction import redacted, redacted_values
from rollhouse.base.secrets import refuse_secrets
from rollhouse.cli.main import app
from rollhouse.environments.math.judge import AnswerJudge
from rollhouse.environments.registry import load_environment
from rollhouse.policies.config import EndpointSettings
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from typer.testing import CliRunner

KEY = "sk-planted-0123456789"
URLS = [f"http://user:{KEY}@host/v1", f"https://{KEY}@host", f"http://host/v1?api_key={KEY}", f"http://host/?a=1&access_token={KEY}"]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_a_url_with_a_password_is_no_setting(url: str) -> None:
    for make in (
        lambda: load_environment(f"nemo-gym:{url}"),
        lambda: AnswerJudge.of(url),
        lambda: AnswerJudge.of({"url": url}),
        lambda: EndpointSettings(extra_body={"callback": url}),
        lambda: refuse_secrets([{"a": [url]}], "x"),
    ):
        with pytest.raises(ConfigError, match="user name or password") as caught:
            make()
        assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", ["api_key", "API-KEY", "openai_api_key", "Authorization", "password", "hf_token", "token", "client_secret"])  # fmt: skip
def test_a_secret_under_its_name_is_no_setting(name: str) -> None:
    with pytest.raises(ConfigError, match=f"extra_body.a.{name} holds a secret") as caught:
        EndpointSettings(extra_body={"a": {name: KEY}})
    assert KEY not in str(caught.value)
    assert redacted_values({"a": [{name: KEY}]}) == {"a": [{name: "***"}]}


def test_names_that_only_look_like_it_pass() -> None:
    fine = {"eos_token": "</s>", "api_key_env": "VAR", "max_tokens": 5, "tokens": "auto", "key": "x", "token_ids": "y"}
    refuse_secrets(fine, "x")
    assert redacted_values(fine) == fine


@pytest.mark.parametrize("key", ["api_key", "nonsense"])
def test_an_unknown_key_of_the_judge_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        load_environment("math", judge={"url": "http://127.0.0.1:1/v1", key: KEY})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_messages_show_no_secret(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY not in redacted(f"cannot reach {url}: refused") and "host" in redacted(url)
    assert KEY not in one_line(f"Authorization: Bearer {KEY}")
    monkeypatch.setenv("SOME_API_KEY", KEY)
    assert redacted(f"wrong key {KEY}") == "wrong key $SOME_API_KEY"


@given(st.text())
def test_other_text_stays(text: str) -> None:
    assert redacted(f"a{text}"[:20]) in (f"a{text}"[:20], redacted(f"a{text}"[:20]))
    json.dumps(redacted_values({"a": [text]}))


def test_a_planted_key_stands_nowhere_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint answers with the key that it was sent, and the run's own notes quote it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with EchoingServer() as url:
        words = ["collect", "--env", "workplace-mini", "--engine", f"openai:{url}", "--model", "m", "--limit", "2", "--run", "r", "--store", str(tmp_path / "s")]  # fmt: skip
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and KEY not in result.output
    with start_run(
        LanceStore.open(tmp_path / "s"), "collect", "other", {"url": URLS[0], "judge": {"api_key": KEY}}
    ) as run:
        run.note({"error": f"401 for {KEY}"})
    events = LanceStore.open(tmp_path / "s").read("run_events").num_rows
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    assert events == 3 and not [path for path in files if KEY.encode() in path.read_bytes()]


class EchoingServer:
    """A server that refuses every request and quotes the header with the key."""

    def __enter__(self) -> str:
        import asyncio
        import threading

        self._loop, ready, found = asyncio.new_event_loop(), threading.Event(), list[Any]()

        async def refuse(request: web.Request) -> web.Response:
            return web.json_response({"error": {"message": f"wrong key: {request.headers.get('Authorization')}"}}, status=401)  # fmt: skip

        async def start() -> None:
            server = web.Application()
            server.router.add_route("*", "/{path:.*}", refuse)
            runner = web.AppRunner(server)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            found.append(runner.addresses[0][1])
            ready.set()

        def work() -> None:
            self._loop.create_task(start())
            self._loop.run_forever()

        threading.Thread(target=work, daemon=True).start()
        ready.wait(30)
        return f"http://127.0.0.1:{found[0]}/v1"

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
