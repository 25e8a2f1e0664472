"""Every field of a request is honoured, forwarded, refused, or named: none is dropped in silence."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rollhouse.policies.endpoint import OpenAIPolicy
from rollhouse.serve import fields
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.collect.peer import Peer, reply, running
from rollhouse.tests.random_model import TEMPLATE
from rollhouse.tests.serve.running import Server, serving
from rollhouse.tests.serve.scripted import call, scripted_policy

FUNCTION = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ASKED = [{"role": "user", "content": "hello"}]
# A template with a setting, for chat_template_kwargs.
POLITE = TEMPLATE.replace("assistant\n' }}{% endif %}", "assistant\n' }}{% if polite %}{{ 'Dear friend, ' }}{% endif %}{% endif %}")  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose turns are `Done.`."""
    with serving(LanceStore.create(tmp_path_factory.mktemp("fields") / "store"), scripted_policy(["Done."])) as server:
        yield server


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As `served`, started with --lenient."""
    store = LanceStore.create(tmp_path_factory.mktemp("lenient") / "store")
    with serving(store, scripted_policy(["Done."]), lenient=True) as server:
        yield server


def engine_of(server: Server) -> Any:
    """The scripted engine."""
    policy: Any = server.policy
    return policy.token_engine


def row_of(server: Server, name: str, route: str = "chat/completions", **body: Any) -> dict[str, Any]:
    """The row of a rollout of one call."""
    asked = {"input": ASKED} if route == "responses" else {"messages": ASKED}
    reply = server.post(f"/rollouts/{name}/v1/{route}", {"model": "m", **asked, **body})
    assert reply.status_code == 200, reply.text
    finished = server.post(f"/rollouts/{name}/finish", {"reward": 1}).json()
    assert server.post(f"/rollouts/{name}/score", {"reward": 1, "scorer": "flush"}).status_code == 200
    return server.rows(rollout_id=finished["rows"][0]["rollout_id"])[0]


def test_the_docs_list_every_field_with_its_use() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    section = page.split("## Fields", 1)[1].split("\n## ", 1)[0]
    lines = dict(re.findall(r"^- \*\*(.+?)\*\*(.+)$", section, re.MULTILINE))
    uses = {"Honoured": "HONOURED", "Where the engine has it": "SHAPING", "Named in the row": "NOTED", "Without effect": "HARMLESS", "Refused": "REFUSED"}  # fmt: skip
    named = {use: set(re.findall(r"`([\w.]+)`", lines[heading])) for heading, use in uses.items()}
    tables = [table for table in vars(fields).values() if isinstance(table, Mapping) and all(isinstance(one, fields.RequestField) for one in table.values())]  # fmt: skip
    assert len(tables) >= 3
    for table in tables:
        for name, field in table.items():
            assert name in named[field.use.name], f"docs/serve.md does not list `{name}` as {field.use.name}"


@pytest.mark.parametrize(
    ("body", "gap"),
    [
        ({"parallel_tool_calls": False}, "ignored:parallel_tool_calls"),
        ({"reasoning_effort": "high"}, "ignored:reasoning_effort"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "ignored:thinking"),
        ({"store": True}, "ignored:store"),
        ({"unheard_of": 1}, "ignored:unheard_of"),
        ({"tools": [{**FUNCTION, "function": {**FUNCTION["function"], "strict": True}}]}, "ignored:strict"),
        ({"tools": [FUNCTION, {"type": "web_search"}]}, "dropped_tool:web_search"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "p", "format": {"type": "grammar"}}}]},
            "ignored:tools.format",
        ),
        ({"messages": [{"role": "user", "content": "hello", "name": "me"}]}, "unread:messages[].name"),
    ],
)
def test_what_has_no_effect_is_named_in_the_row(served: Server, body: dict[str, Any], gap: str) -> None:
    row = row_of(served, f"noted {gap}", **body)
    assert row["gaps"] == [gap] and row["trainable"] is True


@pytest.mark.parametrize(
    ("body", "gap"),
    [
        ({"reasoning": {"effort": "low"}}, "ignored:reasoning"),
        ({"truncation": "auto"}, "ignored:truncation"),
        ({"max_tool_calls": 3}, "ignored:max_tool_calls"),
        ({"text": {"verbosity": "low"}}, "ignored:text.verbosity"),
        ({"include": ["message.output_text.logprobs"]}, "ignored:include"),
        ({"tools": [{"type": "custom", "name": "p", "format": {"type": "grammar"}}]}, "ignored:tools.format"),
        ({"tools": [{"type": "web_search"}, {"type": "local_shell"}]}, "dropped_tool:local_shell"),
        ({"input": [*ASKED, {"type": "compaction", "encrypted_content": "x"}]}, "dropped_item:compaction"),
    ],
)
def test_a_response_names_them_too(served: Server, body: dict[str, Any], gap: str) -> None:
    assert gap in row_of(served, f"response {gap}", "responses", **body)["gaps"]


def test_what_changes_no_answer_is_not_named(served: Server) -> None:
    harmless = {"user": "me", "store": False, "parallel_tool_calls": True, "top_k": 0, "metadata": {"a": "b"}}
    harmless |= {"service_tier": "auto", "prompt_cache_key": "k", "n": 1, "presence_penalty": 0, "logit_bias": {}}
    harmless |= {"response_format": {"type": "text"}, "reasoning_effort": None, "tool_choice": "auto"}
    assert row_of(served, "harmless", **harmless)["gaps"] == []


NOT_HERE: list[tuple[str, Any]] = [
    ("frequency_penalty", 0.5),
    ("presence_penalty", -0.5),
    ("repetition_penalty", 1.1),
    ("logit_bias", {"5": -100}),
    ("min_tokens", 3),
    ("response_format", {"type": "json_object"}),
    ("structured_outputs", {"regex": "a+"}),
    ("guided_choice", ["a", "b"]),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "function": {"name": "look"}}),
    ("ignore_eos", True),
    ("audio", {"voice": "x"}),
]


@pytest.mark.parametrize(("name", "value"), NOT_HERE)
def test_what_the_engine_lacks_is_refused_or_named(served: Server, lenient: Server, name: str, value: Any) -> None:
    body = {"model": "m", "messages": ASKED, "tools": [FUNCTION], name: value}
    reply = served.post("/v1/chat/completions", body)
    assert reply.status_code == 400 and f"`{name}`" in reply.json()["error"]["message"], reply.text
    row = row_of(lenient, f"{name} {NOT_HERE.index((name, value))}", tools=[FUNCTION], **{name: value})
    assert row["gaps"] == [f"ignored:{name}"] and row["trainable"] is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 9),
        ("logit_bias", {"x": 1}),
        ("logit_bias", [1]),
        ("response_format", {"type": "xml"}),
        ("tool_choice", "sometimes"),
        ("tool_choice", {"type": "function", "function": {"name": "other"}}),
        ("n", 0),
        ("top_logprobs", 2),
        ("chat_template_kwargs", "x"),
        ("tools", ["x"]),
        ("structured_outputs", {"json": {}, "regex": "a"}),
    ],
)
def test_wrong_values_are_refused_even_then(lenient: Server, name: str, value: Any) -> None:
    reply = lenient.post("/v1/chat/completions", {"model": "m", "messages": ASKED, "tools": [FUNCTION], name: value})
    assert reply.status_code == 400, reply.text


def test_several_answers_are_choices_and_rows(tmp_path: Path) -> None:
    turns = iter(["One.", "Two.", "Three."])
    with serving(LanceStore.create(tmp_path / "store"), scripted_policy(lambda _: next(turns))) as server:
        client = server.openai("/rollouts/several/v1")
        reply = client.chat.completions.create(model="m", messages=ASKED, n=3, seed=5)
        assert {choice.message.content for choice in reply.choices} == {"One.", "Two.", "Three."}
        assert [choice.index for choice in reply.choices] == [0, 1, 2] and reply.usage.completion_tokens == 17
        assert [one.seed for one in engine_of(server).settings] == [5, 6, 7]
        assert len(server.post("/rollouts/several/finish").json()["rows"]) == 3


def test_the_templates_settings_may_come_with_the_request(tmp_path: Path) -> None:
    policy = scripted_policy(["Done."], POLITE)
    with serving(LanceStore.create(tmp_path / "store"), policy) as server:
        plain = row_of(server, "plain")
        polite = row_of(server, "polite", chat_template_kwargs={"polite": True})
        body = {"messages": ASKED, "chat_template_kwargs": {"polite": True}}
        text = server.post("/detokenize", {"tokens": server.post("/tokenize", body).json()["tokens"]}).json()["prompt"]
    engine: Any = policy.token_engine
    assert [seen.endswith("Dear friend, ") for seen in engine.seen] == [False, True] and text == engine.seen[1]
    assert plain["template_hash"] == policy.chat.template_hash != polite["template_hash"]


def test_a_custom_tool_is_called_with_a_text(tmp_path: Path) -> None:
    text = 'say "hi"\n*** End'
    custom = {"type": "custom", "name": "patch", "description": "Patches.", "format": {"type": "grammar"}}
    with serving(LanceStore.create(tmp_path / "store"), scripted_policy([call("patch", input=text), "Done."])) as server:  # fmt: skip
        chat, responses = server.openai("/rollouts/chat/v1"), server.openai("/rollouts/responses/v1")
        nested = {"type": "custom", "custom": {"name": "patch"}}
        (made,) = chat.chat.completions.create(model="m", messages=ASKED, tools=[nested]).choices[0].message.tool_calls
        assert (made.type, made.custom.name, made.custom.input) == ("custom", "patch", text)
        turn = {"role": "assistant", "tool_calls": [made.model_dump()]}
        engine_of(server).seen.clear()
        items: list[Any] = [{"role": "user", "content": "go"}]
        (item,) = responses.responses.create(model="m", input=items, tools=[custom]).output
        assert (item.type, item.name, item.input) == ("custom_tool_call", "patch", text)
        items += [item.model_dump(exclude_none=True), {"type": "custom_tool_call_output", "call_id": item.call_id, "output": "ok"}]  # fmt: skip
        assert responses.responses.create(model="m", input=items, tools=[custom]).output_text == "Done."
        more = [*ASKED, turn, {"role": "tool", "tool_call_id": made.id, "content": "ok"}]
        assert chat.chat.completions.create(model="m", messages=more, tools=[nested]).choices[0].message.content
        for name in ("chat", "responses"):
            (row,) = server.post(f"/rollouts/{name}/finish").json()["rows"]
            assert (row["n_turns"], row["prefix_ok"]) == (2, True)


def test_a_response_may_name_an_earlier_one(tmp_path: Path) -> None:
    with serving(LanceStore.create(tmp_path / "store"), scripted_policy(["One.", "Two.", "Three."])) as server:
        client = server.openai("/rollouts/named/v1")
        first = client.responses.create(model="m", input="hello", instructions="Be brief.")
        second = client.responses.create(model="m", input="more", instructions="Be brief.", previous_response_id=first.id)  # fmt: skip
        reference = {"type": "item_reference", "id": second.output[0].id}
        items = [{"role": "user", "content": "hello"}, {"id": first.output[0].id}, {"role": "user", "content": "more"}, reference]  # fmt: skip
        client.responses.create(model="m", input=[*items, {"role": "user", "content": "last"}], instructions="Be brief.")  # fmt: skip
        (row,) = server.post("/rollouts/named/finish").json()["rows"]
        assert (row["n_turns"], row["prefix_ok"], second.previous_response_id) == (3, True, first.id)
        quiet = server.client.responses.create(model="m", input="hello", store=False)
        for body in ({"previous_response_id": quiet.id}, {"input": [reference | {"id": "msg_0"}]}):
            reply = server.post("/v1/responses", {"model": "m", "input": "more", **body})
            assert reply.status_code == 404 and reply.json()["error"]["code"] in ("response_not_found", "item_not_found")  # fmt: skip


@pytest.fixture
def peer() -> Iterator[Peer]:
    with running() as peers:
        peers[0].answers = [reply({"content": "done"}, usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9})]  # fmt: skip
        yield peers[0]


def test_an_endpoint_gets_what_the_client_sent(peer: Peer, tmp_path: Path) -> None:
    sent = {
        "stop": ["x"], "tool_choice": "none", "tools": [FUNCTION], "frequency_penalty": 0.5, "reasoning_effort": "low",
        "response_format": {"type": "json_object"}, "max_completion_tokens": 9, "unheard_of": {"a": 1}, "user": "me",
        "parallel_tool_calls": False, "logprobs": True, "top_logprobs": 2, "seed": 3,
    }  # fmt: skip
    with serving(LanceStore.create(tmp_path / "store"), OpenAIPolicy(peer.url)) as server:
        server.client.chat.completions.create(model="m", messages=ASKED)
        answer = server.post("/rollouts/a/v1/chat/completions", {"model": "m", "messages": ASKED, **sent})
        assert answer.json()["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        assert server.post("/v1/chat/completions", {"model": "m", "messages": ASKED, "audio": {}}).status_code == 400
        parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:x"}}]
        server.client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
        server.post("/rollouts/a/finish", {"reward": 1})
        assert server.post("/rollouts/a/score", {"reward": 1, "scorer": "flush"}).status_code == 200
        (row,) = server.rows()
    bare, full, image = peer.requests
    assert bare == {"model": "served", "messages": ASKED}
    assert full == {"model": "served", "messages": ASKED, **sent}
    assert image["messages"][0]["content"] == parts
    assert row["gaps"] == ["distribution:frequency_penalty", "distribution:response_format"] and row["trainable"] is False  # fmt: skip
    assert json.loads(row["extra"])["serve"]["rollout_id"] == "a"
