"""The OpenAI routes, used by the real client, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.task import Task
from rollhouse.tests.serve.running import Server, serving

Request = Callable[..., dict[str, Any]]


def prompt_of(server: Server, task: Task) -> list[int]:
    """The task's prompt as the engine sees it."""
    policy: Any = server.policy
    return policy.chat.prompt_ids(task)


def test_models_name_the_model_and_what_its_tokens_are(server: Server) -> None:
    (card,) = server.client.models.list().data
    answered = card.model_extra or {}
    assert (card.id, card.owned_by, answered["max_model_len"]) == ("tiny", "rollhouse", 1024)
    assert (answered["tokenizer_hash"], answered["template_hash"]) == server.policy.token_identity
    assert server.get("/health").json() == {"status": "ok"}


def test_tokenize_gives_the_prompt_the_engine_sees_and_detokenize_the_text_back(
    server: Server, task: Task, request_of: Request
) -> None:
    request = request_of()
    body = {"messages": request["messages"], "tools": request["tools"]}
    reported = server.post("/tokenize", body).json()
    assert reported["tokens"] == prompt_of(server, task) and reported["count"] == len(reported["tokens"])
    tokens = server.post("/v1/tokenize", {"prompt": "Move the meeting"}).json()["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}).json() == {"prompt": "Move the meeting"}


def test_a_completion_of_the_chat_prompt_equals_the_chat(server: Server, task: Task, request_of: Request) -> None:
    chat = server.client.chat.completions.create(**request_of(), extra_body={"tool_choice": "none"})
    prompt = prompt_of(server, task)
    text = server.post("/detokenize", {"tokens": prompt}).json()["prompt"]
    for given in (prompt, text):
        done = server.client.completions.create(model="tiny", prompt=given, temperature=0, max_tokens=200, logprobs=0)
        choice = done.choices[0]
        assert choice.text == chat.choices[0].message.content and "<tool_call>" in choice.text
        assert choice.model_extra["token_ids"] == chat.choices[0].model_extra["token_ids"]
        assert choice.model_extra["prompt_token_ids"] == prompt and choice.finish_reason == "stop"
        assert choice.logprobs.token_logprobs == choice.model_extra["generation_log_probs"]


def test_completions_of_a_rollout_that_go_on_from_its_tokens_are_one_row(server: Server, task: Task) -> None:
    client, prompt = server.openai("/rollouts/raw/v1"), prompt_of(server, task)
    how: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "extra_body": {"return_token_ids": True}}
    first = client.completions.create(model="tiny", prompt=prompt, **how).choices[0].model_extra
    more = prompt + first["token_ids"] + prompt[:3]
    second = client.completions.create(model="tiny", prompt=more, **how).choices[0].model_extra
    answered = server.post("/rollouts/raw/finish", {}).json()
    assert [(row["branch"], row["n_turns"], row["prefix_ok"]) for row in answered["rows"]] == [(0, 2, True)]
    assert answered["status"] == "truncated"
    server.post("/rollouts/raw/score", {"reward": 0})
    (row,) = server.rows(rollout_id=answered["rows"][0]["rollout_id"])
    assert row["token_ids"] == first["token_ids"] + prompt[:3] + second["token_ids"]
    assert row["loss_mask"] == [1] * 4 + [0] * 3 + [1] * len(second["token_ids"])


def test_a_stream_is_the_answer_in_pieces(server: Server, request_of: Request) -> None:
    whole = server.client.chat.completions.create(**request_of())
    chunks = list(
        server.client.chat.completions.create(**request_of(), stream=True, stream_options={"include_usage": True})
    )
    calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    function = whole.choices[0].message.tool_calls[0].function
    assert calls[0].function.name == function.name
    assert "".join(call.function.arguments for call in calls) == function.arguments
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert chunks[-1].usage == whole.usage
    ids = [chunk.choices[0].model_extra["token_ids"] for chunk in chunks if chunk.choices and "token_ids" in chunk.choices[0].model_extra]  # fmt: skip
    assert ids == [whole.choices[0].model_extra["token_ids"]]
    with server.client.chat.completions.stream(**request_of(tool_choice="none")) as stream:
        reported = stream.get_final_completion().choices[0].message.content
    assert (
        reported
        and reported
        == server.client.chat.completions.create(**request_of(tool_choice="none")).choices[0].message.content
    )
    pieces = server.client.completions.create(model="tiny", prompt="Hello", max_tokens=5, temperature=0, stream=True)
    text = server.client.completions.create(model="tiny", prompt="Hello", max_tokens=5, temperature=0).choices[0].text
    assert "".join(piece.choices[0].text for piece in pieces) == text


def test_responses_of_a_rollout_are_true_to_the_token(server: Server, task: Task) -> None:
    client = server.openai("/rollouts/responses/v1")
    tools = [{"type": "function", **tool["function"]} for tool in task.tools]
    items: list[Any] = [{"role": message.role, "content": message.text} for message in task.messages]
    request: dict[str, Any] = {
        "model": "tiny",
        "tools": tools,
        "temperature": 0,
        "max_output_tokens": 200,
        "extra_body": {"return_token_ids": True},
    }
    first = client.responses.create(input=items, **request)
    (call,) = first.output
    assert call.type == "function_call" and first.status == "completed"
    assert call.model_extra["prompt_token_ids"] == prompt_of(server, task)
    sampled = call.model_extra["generation_token_ids"]
    assert len(call.model_extra["generation_log_probs"]) == len(sampled) == first.usage.output_tokens
    items += [{"type": "function_call", "name": call.name, "arguments": call.arguments, "call_id": call.call_id}]
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "[]"}]
    second = client.responses.create(input=items, **request)
    seen = second.output[-1].model_extra["prompt_token_ids"]
    assert seen[: len(prompt_of(server, task)) + len(sampled)] == prompt_of(server, task) + sampled
    answered = server.post("/rollouts/responses/finish", {"reward": 1}).json()
    assert [(row["n_turns"], row["prefix_ok"]) for row in answered["rows"]] == [(2, True)]
    with server.client.responses.stream(input=items, **request) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == [item.type for item in second.output]
    assert final.output_text == second.output_text
    reported = server.client.responses.create(input="Hello", model="tiny", max_output_tokens=1)
    assert reported.status == "incomplete" and reported.incomplete_details.reason == "max_output_tokens"


def test_tokens_a_client_sends_back_are_the_prefix_without_any_rollout(server: Server, request_of: Request) -> None:
    request = request_of(temperature=1.0, seed=3)
    first = server.client.chat.completions.create(**request).choices[0].message.model_dump(exclude_none=True)
    more = {"role": "user", "content": "Go on."}
    before = first["prompt_token_ids"] + first["generation_token_ids"]
    # The text of the turn is no longer what was sampled, and the tokens still are.
    held = {**first, "content": "Something else.", "tool_calls": []}
    second = server.client.chat.completions.create(**{**request, "messages": [*request["messages"], held, more]})
    assert second.model_extra["prompt_token_ids"][: len(before)] == before
    plain = {"role": "assistant", "content": "Something else."}
    body = {**request, "messages": [*request["messages"], plain, more], "required_prefix_token_ids": before}
    assert server.post("/tokenize", body).json()["tokens"][: len(before)] == before
    unknown = {**held, "prompt_token_ids": [10**9, *first["prompt_token_ids"][1:]]}
    reply = server.post("/v1/chat/completions", {**request, "messages": [*request["messages"], unknown, more]})
    assert reply.status_code == 400 and "Token ids must be below" in reply.json()["error"]["message"]
    # Tokens of another number of turns are of another conversation.
    other = [*request["messages"], plain, more, held, more]
    third = server.client.chat.completions.create(**{**request, "messages": other})
    assert third.model_extra["prompt_token_ids"][: len(before)] != before


def test_a_stop_text_ends_the_answer_and_its_tokens(server: Server, request_of: Request) -> None:
    whole = server.client.chat.completions.create(**request_of(tool_choice="none")).choices[0]
    cut = server.client.chat.completions.create(**request_of(tool_choice="none", stop=["never", '"name"'])).choices[0]
    assert whole.message.content.split('"name"')[0] == cut.message.content and cut.finish_reason == "stop"
    ids = cut.model_extra["token_ids"]
    assert ids == whole.model_extra["token_ids"][: len(ids)] and len(ids) < len(whole.model_extra["token_ids"])
    text = server.post("/detokenize", {"tokens": ids}).json()["prompt"]
    assert '"name"' in text
    assert '"name"' not in server.post("/detokenize", {"tokens": ids[:-1]}).json()["prompt"]


def test_the_likeliest_tokens_come_with_the_sampled_one(server: Server, request_of: Request) -> None:
    how = request_of(temperature=1.0, seed=2, logprobs=True, top_logprobs=3, max_tokens=8)
    content = server.client.chat.completions.create(**how).choices[0].logprobs.content
    for entry in content:
        likeliest = [one.logprob for one in entry.top_logprobs]
        assert len(likeliest) == 3 and likeliest == sorted(likeliest, reverse=True)
        assert entry.logprob <= likeliest[0] + 1e-6


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"frequency_penalty": 0.5}, "`frequency_penalty`"),
        ({"response_format": {"type": "json_object"}}, "`response_format`"),
        ({"tool_choice": "required"}, "`tool_choice`"),
        ({"messages": []}, "`messages`"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "images"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0]"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0]"),
        ({"temperature": "hot"}, "`temperature`"),
        ({"temperature": float("nan")}, "not JSON"),
        ({"max_tokens": 0}, "`max_tokens`"),
        ({"seed": 2**70}, "`seed`"),
        ({"stop": [1]}, "`stop`"),
        ({"top_logprobs": 3}, "`top_logprobs`"),
        ({"rollout_id": "x" * 300}, "200"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "not JSON"),
    ],
)
def test_what_is_wrong_or_not_supported_is_400_with_its_name(
    server: Server, request_of: Request, change: dict[str, Any], reported: str
) -> None:
    reply = server.post(
        "/v1/chat/completions",
        content=json.dumps(request_of(**change)),
        headers={"Content-Type": "application/json"},
    )
    assert reply.status_code == 400 and reported in reply.json()["error"]["message"]
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_harmless_fields_are_ignored(server: Server, request_of: Request) -> None:
    more = {
        "n": 1,
        "presence_penalty": 0,
        "user": "me",
        "store": False,
        "parallel_tool_calls": True,
        "top_k": 0,
        "metadata": {"a": "b"},
    }
    reply = server.post("/v1/chat/completions", {**request_of(), **more, "unheard_of": 1})
    assert reply.status_code == 200


@pytest.mark.parametrize("words", [3000, 4_000_000])  # the second would take a minute to be cut into tokens
def test_a_prompt_longer_than_the_context_has_its_own_error(server: Server, request_of: Request, words: int) -> None:
    long = request_of(messages=[{"role": "user", "content": "word " * words}])
    with pytest.raises(openai.BadRequestError) as raised:
        server.client.chat.completions.create(**long)
    assert raised.value.code == "context_length_exceeded"


def test_other_bad_requests_have_an_error_each_and_do_no_harm(server: Server, request_of: Request) -> None:
    url = "/v1/chat/completions"
    as_json = {"Content-Type": "application/json"}
    assert server.post(url, content=b"{", headers=as_json).json()["error"]["code"] == "invalid_request"
    assert server.post(url, content=b"[" * 100_000, headers=as_json).status_code == 400
    assert server.post(url, content=json.dumps(request_of())).status_code == 415
    for raw in ('{"reward":1e999}', '{"metadata":{"a":-1e999}}', '{"metadata":' + '{"a":' * 400 + "1" + "}" * 401):
        assert server.post("/rollouts/x/finish", content=raw, headers=as_json).status_code == 400
    assert "needs a `reward`" in server.post("/rollouts/x/finish", {"passed": True}).json()["error"]["message"]
    assert server.post("/v1/nothing", {}).json()["error"]["code"] == "not_found"
    assert server.get(url).status_code == 405
    assert server.post("/detokenize", {"tokens": [10**9]}).status_code == 400
    assert server.post("/v1/completions", {"prompt": [10**9]}).status_code == 400
    assert server.post("/rollouts/x/finish", {"reward": "much"}).status_code == 400
    assert server.client.chat.completions.create(**request_of()).choices


def test_the_key_lets_in_and_is_kept_nowhere(torch_policy: TokenPolicy, request_of: Request, tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    with serving(store, torch_policy, api_key="sesame-öffne", require_id=True) as server:
        for wrong in (None, "sesame", "sesame-öffnen"):
            headers = {} if wrong is None else {"Authorization": f"Bearer {wrong}".encode()}
            reply = server.post("/v1/chat/completions", request_of(), headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert server.get("/health").status_code == 200
        right = {"Authorization": "Bearer sesame-öffne".encode()}
        reply = server.post("/v1/chat/completions", request_of(), headers=right)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "rollout_id_required")
        reply = server.post("/rollouts/a/v1/chat/completions", request_of(), headers=right)
        assert reply.status_code == 200
    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and "sesame" in path.read_bytes().decode(errors="ignore")]  # fmt: skip
    assert kept == []
