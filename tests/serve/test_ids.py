"""Rollouts of clients that cannot be given a base URL each: ids in fields that they send anyway, and one for each conversation."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.serve.running import Server, serving
from rollhouse.tests.serve.scripted import scripted_policy

ASKED: Any = [{"role": "user", "content": "hello"}]


def turns(server: Server, number: int, asked: Any = ASKED, **more: Any) -> str:
    """A conversation of so many turns; the id that the last answer names."""
    messages, name = list(asked), ""
    for turn in range(number):
        reply = server.post("/v1/chat/completions", {"model": "m", "messages": messages, **more})
        assert reply.status_code == 200, reply.text
        name = reply.headers.get("X-Rollout-Id", "")
        messages += [reply.json()["choices"][0]["message"], {"role": "user", "content": f"and {turn}"}]
    return name


def rows_by_id(server: Server, names: set[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of rollouts, by the client's id, after they are finished."""
    for name in names:
        assert server.post(f"/rollouts/{name}/finish", {"reward": 1}).status_code == 200, name
        assert server.post(f"/rollouts/{name}/score", {"reward": 1, "scorer": "flush"}).status_code == 200
    found: dict[str, list[dict[str, Any]]] = {}
    for row in server.rows():
        found.setdefault(json.loads(row["extra"])["serve"]["rollout_id"], []).append(row)
    return found


def test_an_id_may_come_in_a_field_that_the_client_sends_anyway(tmp_path: Path) -> None:
    fields = ["X-Session-Id", "prompt_cache_key", "metadata.session.number"]
    with serving(LanceStore.create(tmp_path / "store"), scripted_policy(["Done."]), id_fields=fields) as server:
        url, body = "/v1/chat/completions", {"model": "m", "messages": ASKED}
        server.post(url, body | {"prompt_cache_key": "other"}, headers={"X-Session-Id": "by-header"})
        server.post(url, body | {"prompt_cache_key": "by-key"})
        server.post(url, body | {"metadata": {"session": {"number": 7}}, "prompt_cache_key": None})
        server.post(f"/rollouts/by-path{url}", body | {"prompt_cache_key": "by-key"})
        assert server.post(url, body | {"metadata": {"session": "no number"}}).headers.get("X-Rollout-Id") is None
        found = rows_by_id(server, {"by-header", "by-key", "7", "by-path"})
        assert {name: len(rows) for name, rows in found.items()} == {"by-header": 1, "by-key": 1, "7": 1, "by-path": 1}


@pytest.mark.parametrize("at_once", [False, True])
def test_each_conversation_is_a_rollout_of_its_own(tmp_path: Path, at_once: bool) -> None:
    policy = scripted_policy(["Always the same."])
    with serving(LanceStore.create(tmp_path / "store"), policy, id_per_conversation=True, require_id=True) as server:
        other = [{"role": "user", "content": "another question"}]
        work = [ASKED, ASKED, ASKED, other, other, ASKED]
        if at_once:
            with ThreadPoolExecutor(6) as pool:
                names = list(pool.map(lambda asked: turns(server, 4, asked), work))
        else:
            names = [turns(server, 4, asked) for asked in work]
        assert len(set(names)) == 6 and server.get(f"/rollouts/{names[0]}").json()["calls"] == 4
        server.post("/rollouts/mine/v1/chat/completions", {"model": "m", "messages": ASKED})
        found = rows_by_id(server, {*names, "mine"})
        assert all([row["n_turns"] for row in found[name]] == [4] and found[name][0]["prefix_ok"] for name in names)
        assert [row["n_turns"] for row in found["mine"]] == [1]


def test_conversations_go_on_after_a_restart(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    policy = scripted_policy(["Done."])
    with serving(store, policy, "run", id_per_conversation=True) as server:
        name = turns(server, 1)
    with serving(store, policy, "run", id_per_conversation=True) as server:
        again = [*ASKED, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "more"}]
        assert turns(server, 1, again) == name
        (rows,) = rows_by_id(server, {name}).values()
        assert [row["n_turns"] for row in rows] == [2]
