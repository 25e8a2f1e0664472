"""Over every engine: vLLM, a template that rewrites history, another endpoint; and our own runner as the client."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from rollhouse.base.errors import EngineError
from rollhouse.base.recipes import resolve
from rollhouse.collect.config import CollectConfig
from rollhouse.collect.job import run_job
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.endpoint import OpenAIPolicy
from rollhouse.policies.engines.base import EngineGone
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.models import weights_hash
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Conversation, Sampling
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.reading import read_message
from rollhouse.store.task import Task
from rollhouse.tests.random_model import TEMPLATE, byte_tokenizer
from rollhouse.tests.serve.agent import play
from rollhouse.tests.serve.running import Watched, serving

Request = Callable[..., dict[str, Any]]
# Strips earlier assistant messages, so that rendered text differs from sampled text.
TRIMS = TEMPLATE.replace(
    "(message.content or '')", "((message.content or '') | trim if not loop.last else (message.content or ''))"
)


def one_row(store: LanceStore) -> dict[str, Any]:
    (row,) = store.read("rollouts").to_pylist()
    return row


def whole_of(store: LanceStore, row: dict[str, Any]) -> list[int]:
    """The prompt's tokens and all that followed."""
    (prompt,) = store.read("prompt_tokens", filter=f"prompt_id = '{row['prompt_id']}'").to_pylist()
    return prompt["token_ids"] + row["token_ids"]


def test_collect_from_the_server_stores_the_tokens_its_engine_saw(torch_policy: TokenPolicy, tmp_path: Path) -> None:
    engine: Any = torch_policy.token_engine
    store = LanceStore.create(tmp_path / "mine")
    with serving(LanceStore.create(tmp_path / "theirs"), torch_policy) as server:
        start = len(engine.seen)
        url = f"openai:{server.url}/v1"
        config = resolve(CollectConfig, options={"env": "workplace-mini", "engine": url, "limit": 6, "temperature": 0, "max_new_tokens": 60})  # fmt: skip
        summary = run_job(store, config)
    seen = [prompt + gave for prompt, gave in engine.seen[start:]]
    rows = store.read("rollouts").to_pylist()
    assert len(rows) == 6 and summary.collected == 6
    assert max(row["n_turns"] for row in rows) > 1
    for row in rows:
        assert row["prefix_ok"] is True and row["gaps"] == [] and whole_of(store, row) in seen
        assert (row["tokenizer_hash"], row["template_hash"]) == torch_policy.token_identity
        assert row["logprobs_mode"] == "processed"


@pytest.fixture(scope="module")
def trimming(random_models: tuple[Path, Path]) -> TokenPolicy:
    """Random text under a template that renders it otherwise once more follows."""
    engine: Any = Watched(TorchEngine(random_models[0], 512))
    return TokenPolicy(engine, ChatFormat(byte_tokenizer(TRIMS), [2, 0]), "any")


def rendered_anew(policy: TokenPolicy, messages: list[dict[str, Any]]) -> list[int]:
    """The prompt without any correction."""
    return policy.chat.render([read_message(message) for message in messages], (), generation_prompt=True)


def test_a_template_that_rewrites_history_changes_no_token(trimming: TokenPolicy, tmp_path: Path) -> None:
    store, engine = LanceStore.create(tmp_path / "store"), cast(Watched, trimming.token_engine)
    engine.seen.clear()
    with serving(store, trimming) as server:
        client = server.openai("/rollouts/trims/v1")
        messages: list[Any] = [{"role": "user", "content": "hello"}]
        rewritten = 0
        for turn in range(5):
            output = client.chat.completions.create(model="any", messages=messages, max_tokens=12, seed=turn, stop=[" ", "\n"])  # fmt: skip
            rewritten += engine.seen[-1][0] != rendered_anew(trimming, messages)
            messages += [{"role": "assistant", "content": output.choices[0].message.content}]
            messages += [{"role": "user", "content": f"and {turn}"}]
        assert server.post("/rollouts/trims/finish").json()["rows"][0]["n_turns"] == 5
    assert rewritten
    row = one_row(store)
    assert row["prefix_ok"] is True and row["gaps"] == []
    # What the engine gave beyond a stop text is in no later prompt, and in no row.
    for (seen, gave), (then, _) in pairwise(engine.seen):
        assert then[: len(seen)] == seen and then[len(seen)] == gave[0]
    (seen, gave), ids = engine.seen[-1], whole_of(store, row)
    assert ids[: len(seen)] == seen and ids[len(seen) :] == gave[: len(ids) - len(seen)]


def test_our_own_client_has_its_tokens_kept_without_a_rollout(trimming: TokenPolicy, tmp_path: Path) -> None:
    engine = cast(Watched, trimming.token_engine)
    engine.seen.clear()

    async def talk(policy: OpenAIPolicy) -> tuple[Conversation, int]:
        conversation = Conversation(Task("t", (Message("user", "hello"),), ()))
        rewritten = 0
        for turn in range(5):
            output = await policy.respond(conversation, Sampling(max_tokens=12, seed=turn))
            everything = [*conversation.task.messages, *conversation.messages]
            rewritten += engine.seen[-1][0] != trimming.chat.render(everything, (), generation_prompt=True)
            conversation.messages += [output.message, Message("user", f"and {turn}")]
        return conversation, rewritten

    with serving(LanceStore.create(tmp_path / "store"), trimming) as server:
        conversation, rewritten = asyncio.run(talk(OpenAIPolicy(f"{server.url}/v1")))
    assert rewritten and conversation.prefix_ok and conversation.gaps == []
    assert (conversation.prompt_ids or []) + conversation.token_ids == engine.seen[-1][0] + engine.seen[-1][1]


def test_another_endpoint_behind_the_server_is_recorded_with_its_tokens(
    torch_policy: TokenPolicy, task: Task, request_of: Request, tmp_path: Path
) -> None:
    store = LanceStore.create(tmp_path / "front")
    with serving(LanceStore.create(tmp_path / "back"), torch_policy) as back:
        policy = OpenAIPolicy(f"{back.url}/v1")
        with serving(store, policy, model="openai") as front:
            assert front.client.models.list().data[0].id == policy.policy_id == "tiny"
            play(front.openai("/rollouts/a/v1"), task)
            assert front.post("/rollouts/a/finish", {"reward": 1}).status_code == 200
            assert front.post("/tokenize", {"prompt": "x"}).status_code == 400
            long = request_of(messages=[{"role": "user", "content": "word " * 3000}])
            with pytest.raises(openai.BadRequestError) as raised:
                front.client.chat.completions.create(**long)
            assert raised.value.code == "context_length_exceeded"
    row = one_row(store)
    assert (row["engine"], row["prefix_ok"], row["gaps"]) == ("openai", True, [])
    assert row["n_turns"] > 1 and row["n_sampled_tokens"] == len(row["logprobs"]) > 20


def test_an_engine_that_fails_is_502_and_one_that_has_ended_ends_the_server(
    torch_policy: TokenPolicy, request_of: Request, tmp_path: Path
) -> None:
    @contextmanager
    def failing(error: Exception) -> Iterator[None]:
        engine: Any = torch_policy.token_engine

        async def fail(*_: Any) -> None:
            raise error

        engine.generate = fail
        try:
            yield
        finally:
            del engine.generate

    def ask_all(store: LanceStore) -> None:
        with serving(store, torch_policy) as server:
            client = server.openai("/rollouts/a/v1")
            with failing(EngineError("It broke.", "Mend it.")), pytest.raises(openai.InternalServerError) as raised:
                client.chat.completions.create(**request_of())
            assert (raised.value.status_code, raised.value.code) == (502, "engine_error")
            assert server.post("/rollouts/a/finish").json()["error"]["code"] == "unknown_rollout"
            assert client.chat.completions.create(**request_of()).choices
            with (
                failing(EngineGone("It ended.", "Start it again.")),
                pytest.raises(openai.InternalServerError) as raised,
            ):
                client.chat.completions.create(**request_of())
            assert (raised.value.status_code, raised.value.code) == (503, "engine_gone")

    with pytest.raises(EngineGone):
        ask_all(LanceStore.create(tmp_path / "store"))


def test_over_vllm_many_agents_at_once_are_a_row_each_and_true_to_the_token(
    engine: Any, tiny_base: Path, tmp_path: Path
) -> None:
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    store = LanceStore.create(tmp_path / "store")
    chat = ChatFormat.of(tiny_base)
    policy = TokenPolicy(engine, chat, weights_hash(tiny_base))
    tasks = list(MiniEnvironment().tasks("train"))[:8]
    with serving(store, policy) as server:

        async def all_of_them() -> None:
            await asyncio.gather(
                *[
                    asyncio.to_thread(play, server.openai(f"/rollouts/{i}/v1"), one, temperature=1.0, seed=i)
                    for i, one in enumerate(tasks)
                ]
            )

        asyncio.run(all_of_them())
        for i in range(len(tasks)):
            assert server.post(f"/rollouts/{i}/finish", {"reward": 0}).status_code == 200
    rows = store.read("rollouts").to_pylist()
    assert len(rows) == len(tasks) and {row["engine"] for row in rows} == {"vllm"}
    for row in rows:
        assert row["prefix_ok"] is True and row["gaps"] == [] and row["status"] in ("completed", "truncated")
        ids = whole_of(store, row)
        scores = asyncio.run(engine.score(ids))
        start = len(ids) - len(row["token_ids"])
        sampled = [score for score, mask in zip(scores[start:], row["loss_mask"], strict=True) if mask]
        assert sampled == pytest.approx(row["logprobs"], abs=2e-3)


def test_over_vllm_an_answer_streams_and_shaped_ones_are_not_trained_on(
    engine: Any, tiny_base: Path, request_of: Request, tmp_path: Path
) -> None:
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    store = LanceStore.create(tmp_path / "store")
    with serving(store, TokenPolicy(engine, ChatFormat.of(tiny_base), weights_hash(tiny_base))) as server:
        whole = server.client.chat.completions.create(**request_of(), logprobs=True, top_logprobs=2).choices[0]
        for entry in whole.logprobs.content:
            assert entry.top_logprobs[0].token == entry.token and len(entry.top_logprobs) == 2
        client = server.openai("/rollouts/streams/v1")
        chunks = list(client.chat.completions.create(**request_of(), stream=True))
        deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        function = whole.message.tool_calls[0].function
        assert "".join(call.function.arguments for call in deltas) == function.arguments and len(deltas) > 3
        shaped = {"frequency_penalty": 0.5, "presence_penalty": 0.5, "logit_bias": {"5": -100}}
        server.openai("/rollouts/shaped/v1").chat.completions.create(**request_of(), **shaped)
        for name in ("streams", "shaped"):
            assert server.post(f"/rollouts/{name}/finish", {"reward": 1}).status_code == 200
        assert server.post("/v1/chat/completions", request_of(logit_bias={"99999999": 1})).status_code == 400
    rows = {bool(row["gaps"]): row for row in store.read("rollouts").to_pylist()}
    assert rows[True]["gaps"] == [f"distribution:{name}" for name in shaped] and rows[True]["trainable"] is False
    ids = whole_of(store, rows[False])
    scores = asyncio.run(engine.score(ids))[len(ids) - len(rows[False]["token_ids"]) :]
    assert rows[False]["trainable"] is True and len(scores) == len(rows[False]["logprobs"])


FORM = {"type": "object", "properties": {"day": {"enum": ["monday", "friday"]}}, "required": ["day"], "additionalProperties": False}  # fmt: skip


def test_over_vllm_answers_have_the_form_that_they_must_have(
    engine: Any, tiny_base: Path, request_of: Request, tmp_path: Path
) -> None:
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    store = LanceStore.create(tmp_path / "store")
    with serving(store, TokenPolicy(engine, ChatFormat.of(tiny_base), weights_hash(tiny_base))) as server:
        client = server.openai("/rollouts/formed/v1")
        names = [tool["function"]["name"] for tool in request_of()["tools"]]
        hot: Any = {"temperature": 2.0, "seed": 1}
        named = {"type": "function", "function": {"name": names[-1]}}
        for choice, allowed in (("required", names), (named, names[-1:])):
            (made,) = client.chat.completions.create(**request_of(**hot, tool_choice=choice)).choices[0].message.tool_calls  # fmt: skip
            assert made.function.name in allowed and isinstance(json.loads(made.function.arguments), dict)
        schema = {"type": "json_schema", "json_schema": {"name": "day", "schema": FORM}}
        text = server.client.chat.completions.create(**request_of(**hot, response_format=schema)).choices[0].message
        assert json.loads(text.content)["day"] in ("monday", "friday")
        wrong = {"type": "json_schema", "json_schema": {"schema": {"type": "no such type"}}}
        assert server.post("/v1/chat/completions", request_of(response_format=wrong)).status_code == 400
        assert server.client.chat.completions.create(**request_of()).choices[0].finish_reason == "tool_calls"
        assert server.post("/rollouts/formed/finish", {"reward": 1}).status_code == 200
    rows = store.read("rollouts").to_pylist()
    assert rows and all("distribution:tool_choice" in row["gaps"] and row["trainable"] is False for row in rows)
