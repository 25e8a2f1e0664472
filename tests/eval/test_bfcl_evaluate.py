"""A policy's answers to BFCL cases become rows and accuracies."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rollhouse.collect.chat import TemplateError
from rollhouse.collect.engines.base import EngineRefused, PromptTooLong
from rollhouse.collect.types import Conversation, Sampling, Turn
from rollhouse.eval.bfcl import evaluate_bfcl
from rollhouse.store.errors import ConfigError, EngineError, EvaluationError
from rollhouse.store.house import House
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import get_run, start_run


class Oracle:
    """Answers with what `answer` gives for a case id: calls, or an exception to raise."""

    engine = "oracle"
    version = 0
    token_identity = None

    def __init__(self, answer: Callable[[str], list[tuple[str, str]]], policy_id: str = "oracle") -> None:
        self.answer = answer
        self.policy_id = policy_id
        self.asked: list[str] = []

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        case = conversation.task.source_key or ""
        self.asked.append(case)
        await asyncio.sleep(0)
        calls = tuple(ToolCall(f"call_{i}", name, text) for i, (name, text) in enumerate(self.answer(case)))
        return Turn(Message("assistant", None if calls else "No function fits.", calls))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House.create(tmp_path / "house")


def test_gold_scores_one_and_silence_scores_where_silence_is_right(house: House, gold: Callable) -> None:
    answers = gold("simple_python") | gold("live_parallel")
    categories = ["simple_python", "live_parallel", "irrelevance"]
    with start_run(house, "eval", "gold") as run:
        summary = evaluate_bfcl(house, run, Oracle(lambda case: answers.get(case, [])), categories, limit=8)
    assert summary.accuracy == {"simple_python": 1.0, "live_parallel": 1.0, "irrelevance": 1.0}
    assert {name: score.total for name, score in summary.categories.items()} == dict.fromkeys(categories, 8)
    assert "simple_java" in summary.not_run and "irrelevance" not in summary.not_run
    with start_run(house, "eval", "silent") as run:
        summary = evaluate_bfcl(house, run, Oracle(lambda case: []), categories, limit=8)
    assert summary.accuracy == {"simple_python": 0.0, "live_parallel": 0.0, "irrelevance": 1.0}
    assert summary.categories["simple_python"].errors == {"ast_decoder:decoder_failed": 8}


def test_each_case_is_a_row(house: House, gold: Callable) -> None:
    answers = gold("multiple")
    with start_run(house, "eval", "rows") as run:
        evaluate_bfcl(house, run, Oracle(lambda case: answers[case]), ["multiple"], limit=3)
    rows = house.read("evaluations").to_pylist()
    assert len({row["row_id"] for row in rows}) == 3
    for row in rows:
        assert (row["run_id"], row["benchmark"], row["category"], row["mode"]) == ("rows", "bfcl", "multiple", "fc")
        assert row["passed"] and row["score"] == 1.0 and row["error_type"] is None and row["policy_id"] == "oracle"
        call = json.loads(row["output"])["tool_calls"][0]["function"]
        assert [(call["name"], call["arguments"])] == answers[row["case_id"]]
        prompt = json.loads(row["prompt"])
        assert prompt["messages"][-1]["role"] == "user"
        assert call["name"] in {tool["function"]["name"] for tool in prompt["tools"]}


def test_a_run_goes_on_where_it_stopped(house: House, gold: Callable) -> None:
    answers = gold("simple_python")
    down = True

    def answer(case: str) -> list[tuple[str, str]]:
        if down and int(case.rsplit("_", 1)[1]) % 2:
            raise EngineError("The endpoint is down.")
        return answers[case]

    policy = Oracle(answer)
    with pytest.raises(EvaluationError, match=r"of 10 BFCL cases got no answer"), start_run(house, "eval", "r") as run:
        evaluate_bfcl(house, run, policy, ["simple_python"], limit=10)
    answered = {row["case_id"] for row in house.read("evaluations").to_pylist()}
    assert 0 < len(answered) < 10
    down, policy.asked = False, []
    with start_run(house, "eval", "r") as run:
        summary = evaluate_bfcl(house, run, policy, ["simple_python"], limit=10)
    assert not answered & set(policy.asked) and len(answered) + len(policy.asked) == 10
    assert summary.accuracy == {"simple_python": 1.0}


def test_one_run_evaluates_one_policy(house: House) -> None:
    with start_run(house, "eval", "r") as run:
        evaluate_bfcl(house, run, Oracle(lambda case: []), ["irrelevance"], limit=1)
    with pytest.raises(ConfigError, match="holds an evaluation of oracle"), start_run(house, "eval", "r") as run:
        evaluate_bfcl(house, run, Oracle(lambda case: [], "other"), ["irrelevance"], limit=1)


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (TemplateError("The chat template cannot render the conversation."), "template"),
        (EngineRefused("Not this."), "engine_refused"),
        (PromptTooLong("The context is 512 tokens."), "prompt_too_long"),
    ],
)
def test_what_cannot_be_asked_is_a_failed_case(house: House, error: Exception, error_type: str) -> None:
    def refuse(case: str) -> list[tuple[str, str]]:
        raise error

    with start_run(house, "eval", "r") as run:
        summary = evaluate_bfcl(house, run, Oracle(refuse), ["live_relevance"], limit=2)
    assert summary.categories["live_relevance"].errors == {error_type: 2}


def test_an_interrupted_run_keeps_what_was_judged(house: House) -> None:
    def answer(case: str) -> list[tuple[str, str]]:
        if len(policy.asked) > 3:
            raise KeyboardInterrupt
        return []

    policy = Oracle(answer)
    with pytest.raises(KeyboardInterrupt), start_run(house, "eval", "r") as run:
        evaluate_bfcl(house, run, policy, ["irrelevance"], limit=9, concurrency=1)
    assert house.read("evaluations").num_rows == 3
    assert get_run(house, "r")["status"] == "aborted"
