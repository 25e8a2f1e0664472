"""Who answers: the script and its mistakes, and a model whose context fills."""

import asyncio
import json
from pathlib import Path

import pytest
from rollhouse.base.errors import EngineError
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.scripted import DONE, ScriptedPolicy
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Conversation, Sampling
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def task(calls: int, name: str = "do it") -> Task:
    truth = [{"name": f"f{i}", "arguments": json.dumps({"i": i}) if i % 2 else {"i": i}} for i in range(calls)]
    return Task("test", (Message("user", name),), (TOOL,), ground_truth=truth)


def play(policy: ScriptedPolicy, what: Task, sample: int = 0) -> list[Message]:
    conversation = Conversation(what, sample_index=sample)
    while not conversation.messages or conversation.messages[-1].tool_calls:
        conversation.messages.append(asyncio.run(policy.respond(conversation, Sampling())).message)
    return conversation.messages


def called(messages: list[Message]) -> list[str]:
    return [call.name for message in messages for call in message.tool_calls]


def test_the_script_plays_one_call_a_turn_and_says_it_is_done() -> None:
    messages = play(ScriptedPolicy(), task(3))
    assert [len(message.tool_calls) for message in messages] == [1, 1, 1, 0]
    assert messages[1].tool_calls == (ToolCall("call_1", "f1", '{"i": 1}'),) and messages[-1].text == DONE


@pytest.mark.parametrize(("calls", "turns"), [(0, 6), (1, 6), (5, 6), (6, 6), (12, 6), (40, 6), (12, 20), (3, 1)])
def test_the_script_fits_any_truth_into_the_turns_allowed(calls: int, turns: int) -> None:
    messages = play(ScriptedPolicy(max_turns=turns), task(calls))
    assert called(messages) == [f"f{i}" for i in range(calls)] and len(messages) <= max(2, turns)


def test_mistakes_leave_out_the_last_call_at_their_rate_and_the_same_ones_each_time() -> None:
    tasks = [task(2, f"task {i}") for i in range(150)]

    def wrong(rate: float, seed: int) -> list[tuple[int, int]]:
        policy = ScriptedPolicy(rate, seed)
        played = {(i, sample): called(play(policy, one, sample)) for i, one in enumerate(tasks) for sample in (0, 1)}
        assert set(map(tuple, played.values())) <= {("f0",), ("f0", "f1")}
        return [slot for slot, names in played.items() if len(names) == 1]

    chosen = wrong(0.3, 0)
    assert 0.2 < len(chosen) / 300 < 0.4
    assert wrong(0.3, 0) == chosen != wrong(0.3, 1)
    assert {i for i, sample in chosen if sample == 0} != {i for i, sample in chosen if sample == 1}
    assert wrong(0.0, 0) == [] and len(wrong(1.0, 0)) == 300


def test_the_script_needs_a_list_of_calls() -> None:
    with pytest.raises(EngineError, match="needs a ground truth"):
        asyncio.run(ScriptedPolicy().respond(Conversation(Task("test", (), (TOOL,), ground_truth="42")), Sampling()))


def test_a_full_context_is_an_empty_turn_cut_by_length(random_models: tuple[Path, Path]) -> None:
    chat = ChatFormat.of(random_models[0])
    what = task(1)
    engine = TorchEngine(random_models[0], max_model_len=len(chat.prompt_ids(what)) + 3)
    policy, conversation = TokenPolicy(engine, chat, "any"), Conversation(what)
    turn = asyncio.run(policy.respond(conversation, Sampling(max_tokens=50, seed=0)))
    assert turn.token_ids is not None and len(turn.token_ids) <= 3
    conversation.messages += [turn.message, Message("tool", "a long answer", tool_call_id="call_0")]
    turn = asyncio.run(policy.respond(conversation, Sampling(max_tokens=50, seed=0)))
    assert (turn.token_ids, turn.stop_reason) == ([], "length")
