"""Engines: logprobs against transformers, weights swapped under requests in flight, and a clear end when the process dies."""

import asyncio
import json
import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rollhouse.base.errors import ConfigError, EngineError
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines import cluster
from rollhouse.policies.engines.base import EngineGone, SampledTokens, version_spans
from rollhouse.policies.engines.torch_engine import TorchEngine, sample
from rollhouse.policies.engines.vllm_actor import open_vllm
from rollhouse.policies.models import context_length
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Conversation, Sampling
from rollhouse.store.messages import Message, VersionSpan
from rollhouse.store.task import Task
from safetensors.torch import load_file, save_file

from ..random_model import reference_logprobs

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TASK = Task("test", (Message("system", "be brief"), Message("user", "look twice")), (TOOL,))


def largest_gap(
    folder: Path, prompt: list[int], token_ids: list[int], logprobs: list[float], temperature: float = 1.0
) -> float:
    expected = reference_logprobs(folder, prompt + token_ids, temperature)[len(prompt) :]
    return max(abs(a - b) for a, b in zip(expected, logprobs, strict=True))


def shifted(folder: Path, to: Path) -> Path:
    """The same model with other weights."""
    shutil.copytree(folder, to)
    torch.manual_seed(7)
    tensors = load_file(folder / "model.safetensors")
    changed = {name: value + 0.05 * torch.randn_like(value) * value.abs().mean() for name, value in tensors.items()}
    save_file(changed, to / "model.safetensors", metadata={"format": "pt"})
    return to


async def play_two_turns(policy: TokenPolicy, sampling: Sampling) -> Conversation:
    conversation = Conversation(TASK)
    for answer in ("one", "two"):
        turn = await policy.respond(conversation, sampling)
        conversation.messages += [turn.message, Message("tool", answer, tool_call_id="call_0")]
    return conversation


def check_trajectory(conversation: Conversation, folder: Path) -> None:
    """Every prompt began with all tokens before it, masks line up, and each logprob is the model's for that very prefix."""
    assert conversation.prompt_ids is not None
    assert len(conversation.loss_mask) == len(conversation.token_ids)
    assert sum(conversation.loss_mask) == len(conversation.logprobs)
    expected = reference_logprobs(folder, conversation.prompt_ids + conversation.token_ids)[
        len(conversation.prompt_ids) :
    ]
    sampled = [value for value, own in zip(expected, conversation.loss_mask, strict=True) if own]
    assert max(abs(a - b) for a, b in zip(sampled, conversation.logprobs, strict=True)) < 1e-4


def test_vllm_multi_turn_logprobs_are_transformers_before_and_after_new_weights(
    engine: Any, tiny_base: Path, tmp_path: Path
) -> None:
    chat, other = ChatFormat.of(tiny_base), shifted(tiny_base, tmp_path / "other")
    policy = TokenPolicy(engine, chat, "any")
    for version, folder in enumerate([tiny_base, other, tiny_base]):
        asyncio.run(engine.load_weights(str(folder), version))
        conversation = asyncio.run(play_two_turns(policy, Sampling(max_tokens=24, seed=version)))
        check_trajectory(conversation, folder)
        assert conversation.version_spans == [VersionSpan(0, version)]
        assert conversation.prompt_ids is not None
        scores = asyncio.run(engine.score(conversation.prompt_ids + conversation.token_ids))
        expected = reference_logprobs(folder, conversation.prompt_ids + conversation.token_ids)
        assert scores[0] == 0.0 and max(abs(a - b) for a, b in zip(scores, expected, strict=True)) < 1e-4
    assert engine.version == 2


def test_vllm_records_which_token_came_from_which_weights(engine: Any, tiny_base: Path, tmp_path: Path) -> None:
    """Weights change again and again under 24 requests that share a cached prefix; each logprob is that of the weights its span names."""
    folders = [tiny_base, shifted(tiny_base, tmp_path / "other")]  # version n is folder n % 2
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    shared = ChatFormat.of(tiny_base).prompt_ids(TASK) * 2

    async def under_way() -> list[SampledTokens]:
        wanted = [engine.generate([*shared, 20 + i], Sampling(1.5, max_tokens=150, seed=i)) for i in range(24)]
        running = [asyncio.ensure_future(one) for one in wanted]
        while not all(one.done() for one in running):
            await asyncio.sleep(0.03)
            version = engine.version + 1
            await engine.load_weights(str(folders[version % 2] / "model.safetensors"), version)
        return await asyncio.gather(*running)

    generations = asyncio.run(under_way())
    assert max(len(generation.version_spans) for generation in generations) > 1, "no request lived through an update"
    for i, generation in enumerate(generations):
        prompt = [*shared, 20 + i]
        expected = [reference_logprobs(folder, prompt + generation.token_ids, 1.5)[len(prompt) :] for folder in folders]
        assert generation.version_spans[0].start == 0
        for position, logprob in enumerate(generation.logprobs):
            version = [span.version for span in generation.version_spans if span.start <= position][-1]
            assert abs(expected[version % 2][position] - logprob) < 1e-4


def test_vllm_temperature_and_limits(engine: Any, tiny_base: Path) -> None:
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    prompt = ChatFormat.of(tiny_base).prompt_ids(TASK)

    async def ask(sampling: Sampling) -> SampledTokens:
        return await engine.generate(prompt, sampling)

    hot = asyncio.run(ask(Sampling(temperature=2.0, max_tokens=16, seed=1)))
    assert largest_gap(tiny_base, prompt, hot.token_ids, hot.logprobs, 2.0) < 1e-4
    greedy = [asyncio.run(ask(Sampling(temperature=0.0, max_tokens=16))).token_ids for _ in range(2)]
    assert greedy[0] == greedy[1]
    cut = asyncio.run(ask(Sampling(max_tokens=1, seed=3)))
    assert len(cut.token_ids) == 1 and (cut.stop_reason == "length" or cut.token_ids[0] in (0, 2))


def test_vllm_many_seeded_prompts_at_once(engine: Any, tiny_base: Path) -> None:
    """More prompt tokens than fit one step: a seeded prompt that is cut in two would end the engine."""
    prompt = ChatFormat.of(tiny_base).prompt_ids(TASK) * 6

    async def ask() -> list[SampledTokens]:
        return await asyncio.gather(
            *[engine.generate([*prompt, i], Sampling(max_tokens=4, seed=i)) for i in range(7, 50)]
        )

    first, again = asyncio.run(ask()), asyncio.run(ask())
    assert [one.token_ids for one in first] == [one.token_ids for one in again]


def test_vllm_refuses_one_request_and_answers_the_next(engine: Any, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        asyncio.run(engine.generate([5] * (engine.max_model_len + 1), Sampling()))
    with pytest.raises(EngineError, match="refused"):
        asyncio.run(engine.generate([5, 6], Sampling(top_p=7.0)))
    with pytest.raises(ConfigError, match="no weights"):
        asyncio.run(engine.load_weights(str(tmp_path / "nothing.safetensors"), 9))
    tensors = load_file(tiny_base / "model.safetensors")
    save_file({name: tensors[name] for name in sorted(tensors)[1:]}, tmp_path / "partial.safetensors")
    with pytest.raises(EngineError, match=r"lack 1 parameters"):
        asyncio.run(engine.load_weights(str(tmp_path / "partial.safetensors"), 9))
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    assert len(asyncio.run(engine.score([5, 6, 7]))) == 3


def test_a_cancelled_request_leaves_the_engine(engine: Any, tiny_base: Path) -> None:
    async def give_up() -> list[float]:
        task = asyncio.ensure_future(engine.generate([9] * 30, Sampling(temperature=2.0, max_tokens=900)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await engine.score([5, 6])

    assert len(asyncio.run(give_up())) == 2


def test_a_second_engine_of_the_same_shape_is_the_first_one(engine: Any, tiny_base: Path, tmp_path: Path) -> None:
    other = shifted(tiny_base, tmp_path / "other")
    second: Any = open_vllm(other)
    assert second.actor == engine.actor and second.max_model_len == context_length(tiny_base)
    assert open_vllm(other, max_model_len=100, dtype="float32").max_model_len == 100 < engine.max_model_len
    prompt = [5, 6, 7]
    generation = asyncio.run(pickle.loads(pickle.dumps(second)).generate(prompt, Sampling(max_tokens=8, seed=1)))
    assert largest_gap(other, prompt, generation.token_ids, generation.logprobs) < 1e-4
    second.close()
    assert len(asyncio.run(engine.score([5, 6]))) == 2, "closing a handle that started nothing ends nothing"


@pytest.mark.system
def test_the_context_is_the_models_own_as_far_as_the_cache_holds_it(
    ray_session: None, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_base, tmp_path / "long")
    config = json.loads((tmp_path / "long" / "config.json").read_text())
    (tmp_path / "long" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1 << 19}))
    engine: Any = open_vllm(tmp_path / "long")
    try:
        assert 4096 < engine.max_model_len < 1 << 19 and str(engine.max_model_len) in capsys.readouterr().err
        assert len(asyncio.run(engine.generate([5] * 5000, Sampling(max_tokens=2))).token_ids) == 2
    finally:
        engine.close()
    assert TorchEngine(tmp_path / "long").max_model_len == 1 << 19


def test_an_answer_waits_until_it_is_polled(engine: Any) -> None:
    """Calls of an actor may overtake each other: an answer may be there before anybody polls."""
    import ray

    client, calls = "a client", engine.actor
    ray.get(calls.submit.remote(client, [(0, [5, 6], None, False, None)], []))
    asyncio.run(engine.score([5, 6, 7]))  # by now the other is done
    ((number, scores),) = ray.get(calls.poll.remote(client), timeout=30)
    assert number == 0 and len(scores) == 2
    late = calls.poll.remote(client)
    ray.get(calls.submit.remote(client, [(1, [5, 6], None, False, None)], []))
    assert [number for number, _ in ray.get(late, timeout=30)] == [1]


@pytest.mark.system
def test_a_killed_engine_is_named_at_once_and_another_can_start(
    ray_session: None, random_models: tuple[Path, Path]
) -> None:
    import ray

    engine: Any = open_vllm(random_models[0], max_model_len=512)
    pid: Any = ray.get(engine.actor.ready.remote())

    async def die() -> list[Any]:
        running = [asyncio.ensure_future(engine.generate([5, 6], Sampling(2.0, max_tokens=400))) for _ in range(4)]
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        return await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 60)

    assert all(isinstance(one, EngineGone) for one in asyncio.run(die()))
    with pytest.raises(EngineGone, match="same command again"):
        asyncio.run(engine.score([5, 6]))
    another: Any = open_vllm(random_models[0], max_model_len=512)
    assert another.actor != engine.actor and len(asyncio.run(another.score([5, 6]))) == 2
    another.close()


def test_another_cluster_is_named_and_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # as in a process that has not started one
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1:6379 \(RAY_ADDRESS\)"):
        cluster.ensure_ray()
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        with pytest.raises(ConfigError, match=rf"{address} \(.*ray_current_cluster\).*ray stop"):
            cluster.ensure_ray()
    assert cluster.running_cluster() is None, "a note without a running cluster is stale"


@pytest.fixture(scope="module")
def torch_engine(random_models: tuple[Path, Path]) -> TorchEngine:
    return TorchEngine(random_models[0], max_model_len=512)


def test_torch_logprobs_are_those_of_a_plain_forward(
    torch_engine: TorchEngine, random_models: tuple[Path, Path]
) -> None:
    policy = TokenPolicy(torch_engine, ChatFormat.of(random_models[0]), "any")

    async def several() -> list[Conversation]:
        return await asyncio.gather(*[play_two_turns(policy, Sampling(max_tokens=5 + 7 * i, seed=i)) for i in range(5)])

    for folder, version in ((random_models[0], 0), (random_models[1], 1)):
        asyncio.run(torch_engine.load_weights(str(folder), version))
        for conversation in asyncio.run(several()):
            check_trajectory(conversation, folder)
            assert conversation.version_spans == [VersionSpan(0, version)]
    scores = asyncio.run(torch_engine.score([5, 6, 7, 8]))
    assert scores == pytest.approx(reference_logprobs(random_models[1], [5, 6, 7, 8]), abs=1e-4)


def test_torch_samples_the_same_with_the_same_seed(torch_engine: TorchEngine) -> None:
    async def ask(seed: int) -> list[int]:
        return (await torch_engine.generate([5, 6, 7], Sampling(max_tokens=20, seed=seed))).token_ids

    assert asyncio.run(ask(3)) == asyncio.run(ask(3)) != asyncio.run(ask(4))


def test_torch_refuses_what_does_not_fit(
    torch_engine: TorchEngine, random_models: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        asyncio.run(torch_engine.generate([5] * 512, Sampling()))
    filled = asyncio.run(torch_engine.generate([5] * 510, Sampling(temperature=2.0, max_tokens=50, seed=5)))
    assert len(filled.token_ids) <= 2
    tensors = load_file(random_models[0] / "model.safetensors")
    save_file({name: tensors[name] for name in sorted(tensors)[1:]}, tmp_path / "partial.safetensors")
    with pytest.raises(EngineError, match="lack 1 parameters"):
        asyncio.run(torch_engine.load_weights(str(tmp_path / "partial.safetensors"), 9))


def test_filters_and_their_logprobs() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    generator = torch.Generator().manual_seed(0)

    def draws(settings: Sampling) -> dict[int, float]:
        pairs = [sample(logits, [settings], [generator]) for _ in range(200)]
        return {tokens[0]: logprobs[0] for tokens, logprobs, _ in pairs}

    everything = draws(Sampling())
    assert everything == pytest.approx(dict(enumerate(logits.log_softmax(-1)[0].tolist())), abs=1e-6)
    two = torch.tensor([2.0, 1.0]).log_softmax(-1).tolist()
    for settings in (Sampling(top_k=2), Sampling(top_p=0.7), Sampling(min_p=0.3)):
        assert draws(settings) == pytest.approx(dict(enumerate(two)), abs=1e-6)
    assert draws(Sampling(temperature=0.0)) == pytest.approx({0: everything[0]})


def test_marks_at_one_position_leave_the_last() -> None:
    assert version_spans([(0, 3), (4, 4), (4, 5)]) == (VersionSpan(0, 3), VersionSpan(4, 5))
