"""OpenAI-compatible endpoints: requests, faults, several endpoints at once, and tokens where endpoints return them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rollhouse.base.errors import ConfigError, EngineError
from rollhouse.collect.runner import collect
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.config import EndpointSettings
from rollhouse.policies.endpoint import OpenAIPolicy
from rollhouse.policies.endpoint.reply import CallTokens
from rollhouse.policies.endpoint.tokens import add_call
from rollhouse.policies.engines.base import EngineGone, EngineRefused, PromptTooLong
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run
from rollhouse.store.task import Task

from ..collect.peer import Peer, breaks_off, fails, reply, resets, running, sleeps

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
TASK = Task("test", (Message("user", "do it \ud800"),), (TOOL,))
CALL = {"id": "c9", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
QUICK = {"backoff_s": 0.01, "backoff_max_s": 0.02, "timeout_s": 0.5, "breaker_pause_s": 0.02}
DONE = reply({"content": "done"})


@pytest.fixture
def peer() -> Iterator[Peer]:
    with running() as peers:
        peers[0].answers = [DONE]
        yield peers[0]


def policy_of(*peers: Peer, **settings: Any) -> OpenAIPolicy:
    return OpenAIPolicy(",".join(peer.url for peer in peers), settings=EndpointSettings(**{**QUICK, **settings}))


def respond(policy: OpenAIPolicy, conversation: Conversation | None = None, **sampling: Any) -> Turn:
    return asyncio.run(policy.respond(conversation or Conversation(TASK), Sampling(**sampling)))


async def many(policy: OpenAIPolicy, count: int) -> list[Any]:
    work = [policy.respond(Conversation(TASK), Sampling()) for _ in range(count)]
    return await asyncio.gather(*work, return_exceptions=True)


def test_a_request_has_the_tools_and_the_settings(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    peer.answers = [reply({"content": None, "tool_calls": [CALL]}, "tool_calls"), reply({"content": "cut"}, "length")]
    policy = policy_of(peer, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert policy.policy_id == "served" and policy.urls == [peer.url + "/v1"]
    conversation = Conversation(TASK)
    turn = respond(policy, conversation, temperature=0.5, max_tokens=7, seed=3)
    assert turn == Turn(Message("assistant", None, (ToolCall("c9", "f", '{"x": 1}'),)))
    conversation.messages += [turn.message, Message("tool", "ok", tool_call_id="c9")]
    assert respond(policy, conversation, top_k=5, min_p=0.1).stop_reason == "length"
    first, last = peer.requests
    assert first == {
        "model": "served", "messages": [{"role": "user", "content": "do it \ud800"}], "tools": [TOOL],
        "temperature": 0.5, "top_p": 1.0, "max_tokens": 7, "seed": 3, "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert last["messages"][1:] == [message.to_openai() for message in conversation.messages]
    assert (last["top_k"], last["min_p"]) == (5, 0.1) and peer.headers[0]["Authorization"] == "Bearer sk-1"


def test_a_task_without_tools_or_messages_is_a_request_too(peer: Peer) -> None:
    respond(policy_of(peer), Conversation(Task("test", (), ()), [Message("user", "hi")]))
    assert peer.requests[0]["messages"] == [{"role": "user", "content": "hi"}] and "tools" not in peer.requests[0]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_stays_apart(peer: Peer, name: str) -> None:
    peer.answers = [reply({"content": "4", name: "2 + 2"})]
    assert respond(policy_of(peer)).message == Message("assistant", "4", reasoning="2 + 2")


def test_ids_of_calls_are_unique_in_a_rollout_whatever_the_endpoint_gives(peer: Peer) -> None:
    """Some give none, some count from 0 in every turn; arguments may be absent, empty or an object."""
    bare = [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]  # fmt: skip
    repeated = [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": ""}}] * 2
    peer.answers = [reply({"content": None, "tool_calls": calls}, "tool_calls") for calls in (bare, bare, repeated)]
    policy, conversation = policy_of(peer), Conversation(TASK)
    for _ in range(3):
        turn = respond(policy, conversation)
        conversation.messages += [turn.message, *(Message("tool", "1", tool_call_id=call.id) for call in turn.message.tool_calls)]  # fmt: skip
    calls = [call for message in conversation.messages for call in message.tool_calls]
    assert len({call.id for call in calls}) == 6
    assert [call.parsed() for call in calls] == [{}, {"x": 1}, {}, {"x": 1}, {}, {}]


TROUBLE = {
    "busy": (fails(429, {"error": {"message": "slow down"}}), "429 slow down"),
    "broken": (fails(500, "<html>oh\nno</html>"), "500 <html>oh no</html>"),
    "closed": (resets, "Disconnected"),
    "half": (breaks_off, "Payload"),
    "late": (sleeps(0.8, DONE), "no answer within 0.5 s"),
    "text": (fails(200, "{not json"), "not a completion"),
    "nothing": (fails(200, {"choices": []}), "not a completion"),
    "strange": (reply({"tool_calls": [{"function": {"arguments": "{}"}}]}), "not a completion"),
    "deep": (fails(200, "[" * 100_000), "not a completion"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_failures_are_retried_and_reported_when_they_stay(peer: Peer, name: str) -> None:
    answer, said = TROUBLE[name]
    peer.answers = [answer, DONE]
    turn = respond(policy_of(peer, max_retries=1))
    assert (turn.message.text, turn.retries, len(peer.requests)) == ("done", 1, 2)
    peer.answers = [answer]
    with pytest.raises(EngineError, match=said) as failed:
        respond(policy_of(peer, max_retries=0))
    assert not isinstance(failed.value, EngineRefused) and failed.value.fix and len(peer.requests) == 3
    peer.answers = [answer, fails(400)]
    with pytest.raises(EngineRefused) as refused:
        respond(policy_of(peer))
    assert (failed.value.retries, refused.value.retries) == (0, 1)


def test_what_an_endpoint_refuses_is_not_asked_again(peer: Peer) -> None:
    peer.answers = [fails(400, {"error": {"message": "no such tool"}})]
    with pytest.raises(EngineRefused, match="no such tool") as refused:
        respond(policy_of(peer))
    assert not isinstance(refused.value, PromptTooLong)
    peer.answers = [fails(400, {"message": "This model's maximum context length is 512 tokens."})]
    with pytest.raises(PromptTooLong):
        respond(policy_of(peer))
    assert len(peer.requests) == 2


def test_the_key_is_never_said(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    peer.answers = [fails(401, {"error": "wrong key sk-very-secret"})]
    with pytest.raises(EngineError, match="401 wrong key") as failed:
        respond(policy_of(peer))
    assert "secret" not in str(failed.value) and len(peer.requests) == 1
    with pytest.raises(ConfigError) as refused:
        OpenAIPolicy("http://me:secret@127.0.0.1:9/v1")
    assert "secret" not in str(refused.value)


def test_retry_after_holds_back_every_request(peer: Peer) -> None:
    peer.answers = [fails(429, Retry_After="0.3"), DONE]
    turns = asyncio.run(many(policy_of(peer, concurrency=1), 3))
    assert sum(turn.retries for turn in turns) == 1
    assert peer.at[1] - peer.at[0] >= 0.3 and len(peer.at) == 4


@pytest.mark.parametrize("url", ["ftp://x/v1", "http://", "nonsense", "http://[x/v1", ""])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError):
        OpenAIPolicy(url)


def test_a_wrong_address_is_known_at_once(peer: Peer) -> None:
    with pytest.raises(EngineError, match="does not answer"):
        OpenAIPolicy("http://127.0.0.1:9")
    peer.cards = None
    with pytest.raises(EngineError, match="serves no model"):
        OpenAIPolicy(peer.url)
    assert OpenAIPolicy(peer.url, "named").policy_id == "named"


def test_several_endpoints_share_the_work_within_their_limits() -> None:
    with running(2) as peers:
        for one in peers:
            one.answers = [sleeps(0.02, DONE)]
        turns = asyncio.run(many(policy_of(*peers, concurrency=3), 30))
        assert all(turn.message.text == "done" for turn in turns)
        assert [one.most for one in peers] == [3, 3] and sum(len(one.requests) for one in peers) == 30
        peers[1].cards = [{"id": "other"}]
        with pytest.raises(EngineError, match="does not serve 'served'"):
            policy_of(*peers)


def test_a_broken_endpoint_is_left_alone_while_another_answers() -> None:
    with running(2) as peers:
        peers[0].answers, peers[1].answers = [fails(500)], [DONE]
        policy = policy_of(*peers, breaker_failures=3, breaker_pause_s=60, concurrency=2)
        turns = asyncio.run(many(policy, 40))
        assert all(turn.message.text == "done" for turn in turns)
        assert 3 <= len(peers[0].requests) <= 4 and len(peers[1].requests) == 40


def test_an_open_breaker_sends_one_request_at_a_time_and_closes_on_an_answer(peer: Peer) -> None:
    peer.answers = [*[fails(503)] * 8, DONE]
    turns = asyncio.run(many(policy_of(peer, breaker_failures=4, max_retries=8, timeout_s=30), 4))
    assert all(turn.message.text == "done" for turn in turns) and sum(turn.retries for turn in turns) == 8
    assert len(peer.requests) == 12


def test_endpoints_that_stay_away_end_the_run(peer: Peer) -> None:
    peer.answers = [fails(500, "gone")]
    policy = policy_of(peer, breaker_failures=2, gone_after_s=0.1, max_retries=1000)
    ended = asyncio.run(many(policy, 5))
    assert all(isinstance(error, EngineGone) for error in ended), ended
    assert "500 gone" in str(ended[0])


def test_an_endpoint_that_hangs_longer_than_rollouts_may_take_ends_the_run(peer: Peer) -> None:
    peer.answers = [sleeps(1.5, DONE)]
    policy = policy_of(peer, timeout_s=60, breaker_failures=2, breaker_pause_s=0.1, gone_after_s=0.1)

    async def run() -> None:
        while True:
            work = [asyncio.wait_for(policy.respond(Conversation(TASK), Sampling()), 1.1) for _ in range(3)]
            for ended in await asyncio.gather(*work, return_exceptions=True):
                if isinstance(ended, EngineGone):
                    raise ended

    with pytest.raises(EngineGone, match="the end of a rollout's time limit"):
        asyncio.run(asyncio.wait_for(run(), 30))


def test_who_is_cancelled_while_waiting_gives_its_turn_away(peer: Peer) -> None:
    peer.answers = [sleeps(0.05, DONE)]
    policy = policy_of(peer, concurrency=1)

    async def run() -> list[Any]:
        work = [asyncio.create_task(policy.respond(Conversation(TASK), Sampling())) for _ in range(6)]
        await asyncio.sleep(0.02)
        for one in (work[1], work[2], work[5]):
            one.cancel()
        return await asyncio.gather(*work, return_exceptions=True)

    ended = asyncio.run(run())
    assert [isinstance(one, Turn) for one in ended] == [True, False, False, True, True, False]
    assert peer.most == 1 and len(peer.requests) == 3


@pytest.mark.parametrize("wrong", [{"max_retries": -1}, {"tokens": "some"}, {"timeout_s": 0}, {"concurrency": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EndpointSettings(**wrong)


def vllm(prompt: list[int], sampled: list[int], **message: Any) -> Any:
    content = [{"token": "x", "logprob": -0.5 * token} for token in sampled]
    return reply({"content": "x", **message}, choice={"token_ids": sampled, "logprobs": {"content": content}}, prompt_token_ids=prompt)  # fmt: skip


def nemo_gym(prompt: list[int], sampled: list[int], **message: Any) -> Any:
    logprobs = [-0.5 * token for token in sampled]
    return reply({"content": "x", "prompt_token_ids": prompt, "generation_token_ids": sampled, "generation_log_probs": logprobs, **message})  # fmt: skip


def play(policy: OpenAIPolicy, turns: int) -> Conversation:
    conversation = Conversation(TASK)
    for _ in range(turns):
        conversation.messages += [respond(policy, conversation).message, Message("tool", "ok", tool_call_id="c")]
    return conversation


@pytest.mark.parametrize(("shape", "owner", "wanted"), [(vllm, "vllm", True), (nemo_gym, "x", False)])
def test_tokens_that_are_shown_make_the_conversation_exact(peer: Peer, shape: Any, owner: str, wanted: bool) -> None:
    peer.cards = [{"id": "served", "owned_by": owner}]
    peer.answers = [shape([1, 2], [5, 6]), shape([1, 2, 5, 6, 7, 8], [9])]
    conversation = play(policy_of(peer), 2)
    assert (conversation.prompt_ids, conversation.token_ids) == ([1, 2], [5, 6, 7, 8, 9])
    assert (conversation.loss_mask, conversation.logprobs) == ([1, 1, 0, 0, 1], [-2.5, -3.0, -4.5])
    assert conversation.prefix_ok and conversation.gaps == [] and conversation.logprobs_mode == "processed"
    assert ("return_token_ids" in peer.requests[0], "logprobs" in peer.requests[0]) == (wanted, wanted)


def test_tokens_are_asked_for_taken_and_refused_as_the_option_says(peer: Peer) -> None:
    with pytest.raises(EngineRefused, match="no token ids"):
        play(policy_of(peer, tokens="require"), 1)
    assert peer.requests[0]["return_token_ids"] is True
    peer.answers = [vllm([1], [2])]
    assert play(policy_of(peer, tokens="off"), 1).prompt_ids is None
    peer.answers = [reply({"content": "x", "prompt_token_ids": [1], "generation_token_ids": [2, 3], "generation_log_probs": [-1.0]})]  # fmt: skip
    assert play(policy_of(peer), 1).prompt_ids is None, "tokens and logprobs that do not fit together are none"


def test_a_prompt_that_rewrites_what_came_before_is_noted_and_nothing_false_is_trained(peer: Peer) -> None:
    peer.answers = [vllm([1, 2], [5, 6, 4]), vllm([1, 2, 5, 7, 8], [9])]
    conversation = play(policy_of(peer), 2)
    assert (conversation.prefix_ok, conversation.gaps) == (False, ["prefix:turn2@3"])
    assert (conversation.token_ids, conversation.loss_mask) == ([5, 7, 8, 9], [1, 0, 0, 1])
    assert conversation.logprobs == [-2.5, -4.5]
    peer.answers = [vllm([1, 2], [5]), vllm([1, 3, 5], [9]), vllm([1, 2, 5, 6], [7])]
    conversation = play(policy_of(peer), 3)
    assert conversation.gaps == ["prefix:turn2@1"] and conversation.token_ids == [5, 6, 7]
    peer.answers = [vllm([1, 2], [5]), DONE, vllm([1, 2, 5, 6, 7], [8])]
    conversation = play(policy_of(peer), 3)
    assert (conversation.prefix_ok, conversation.gaps) == (False, ["no_tokens:turn2"])
    assert conversation.loss_mask == [1, 0, 0, 1]
    peer.answers = [DONE, vllm([1, 2, 5], [6])]
    assert play(policy_of(peer), 2).prompt_ids is None, "the task's own prompt was never shown"


few = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine making examples is slow
@given(st.lists(st.tuples(st.integers(0, 12), few, few), min_size=1, max_size=5))
def test_whatever_prompts_come_a_trained_token_was_sampled_after_those_before_it(calls: list[Any]) -> None:
    conversation, sampled_after = Conversation(TASK), set()
    stored = None
    for turn, (kept, added, sampled) in enumerate(calls, 1):
        before = (conversation.prompt_ids or []) + conversation.token_ids
        prompt = before[:kept] + added
        for n in range(len(sampled)):
            sampled_after.add((*prompt, *sampled[: n + 1]))
        add_call(conversation, CallTokens(prompt, sampled, [float(token) for token in sampled]), turn)
        if prompt[: len(conversation.prompt_ids or [])] == conversation.prompt_ids:
            stored = prompt + sampled
        assert conversation.prompt_ids is not None
        whole = conversation.prompt_ids + conversation.token_ids
        assert whole == stored and len(conversation.token_ids) == len(conversation.loss_mask)
        trained = [i for i, mask in enumerate(conversation.loss_mask) if mask]
        assert conversation.logprobs == [conversation.token_ids[i] for i in trained]
        for i in trained:
            assert tuple(whole[: len(conversation.prompt_ids) + i + 1]) in sampled_after
        assert conversation.prefix_ok == (not conversation.gaps)


def test_rollouts_of_an_endpoint_are_rows_with_its_tokens_and_its_refusals(tmp_path: Path, peer: Peer) -> None:
    environment = MiniEnvironment(seed=0)
    tasks = [task for task, _ in zip(environment.tasks("train"), range(4), strict=False)]
    peer.answers = [vllm([1, 2], [5]), fails(400, "bad"), fails(500), vllm([1, 3], [6]), DONE]
    store = LanceStore.create(tmp_path / "store")
    with start_run(store, "collect", "run") as run:
        summary = collect(store, run, environment, policy_of(peer), tasks, concurrency=1, time_limit_s=30)
        run.finish(summary.as_dict())
    rows = sorted(store.read("rollouts").to_pylist(), key=lambda row: row["started_at"])
    assert [row["status"] for row in rows] == ["completed", "error", "completed", "completed"]
    assert rows[1]["error_type"] == "engine_refused" and [row["n_retries"] for row in rows] == [0, 0, 1, 0]
    assert [row["token_ids"] for row in rows] == [[5], None, [6], None]
    assert rows[0]["tokenizer_hash"] == "openai:served" and rows[3]["tokenizer_hash"] is None
    prompts = {(row["prompt_id"], row["template_hash"]): row["token_ids"] for row in store.read("prompt_tokens").to_pylist()}  # fmt: skip
    assert [prompts.get((row["prompt_id"], row["template_hash"])) for row in rows] == [[1, 2], None, [1, 3], None]
