"""A policy's answers to BFCL cases become rows and accuracies."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, EngineError, EvaluationError
from rollhouse.eval.bfcl import evaluate_bfcl
from rollhouse.policies.chat import TemplateError
from rollhouse.policies.engines.base import EngineRefused, PromptTooLong
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.lance_store import LanceStore
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
        self.requested: list[str] = []

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        case = conversation.task.source_key or ""
        self.requested.append(case)
        await asyncio.sleep(0)
        calls = tuple(ToolCall(f"call_{i}", name, text) for i, (name, text) in enumerate(self.answer(case)))
        return Turn(Message("assistant", None if calls else "No function fits.", calls))


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def test_gold_scores_one_and_silence_scores_where_silence_is_right(store: LanceStore, gold: Callable) -> None:
    answers = gold("simple_python") | gold("live_parallel")
    categories = ["simple_python", "live_parallel", "irrelevance"]
    with start_run(store, "eval", "gold") as run:
        summary = evaluate_bfcl(store, run, Oracle(lambda case: answers.get(case, [])), categories, limit=8)
    assert summary.accuracy == {"simple_python": 1.0, "live_parallel": 1.0, "irrelevance": 1.0}
    assert {name: score.total for name, score in summary.categories.items()} == dict.fromkeys(categories, 8)
    assert "simple_java" in summary.not_run and "irrelevance" not in summary.not_run
    with start_run(store, "eval", "silent") as run:
        summary = evaluate_bfcl(store, run, Oracle(lambda case: []), categories, limit=8)
    assert summary.accuracy == {"simple_python": 0.0, "live_parallel": 0.0, "irrelevance": 1.0}
    assert summary.categories["simple_python"].errors == {"ast_decoder:decoder_failed": 8}


def test_a_broken_call_that_counts_as_none_is_told(store: LanceStore) -> None:
    with start_run(store, "eval", "broken") as run:
        summary = evaluate_bfcl(store, run, Oracle(lambda case: [("f", "{bad")]), ["irrelevance"], limit=3)
    score = summary.categories["irrelevance"]
    assert (score.correct, score.broken_calls, score.errors) == (3, 3, {})
    assert {row["error_type"] for row in store.read("evaluations").to_pylist()} == {"broken_call"}


def test_each_case_is_a_row(store: LanceStore, gold: Callable) -> None:
    answers = gold("multiple")
    with start_run(store, "eval", "rows") as run:
        evaluate_bfcl(store, run, Oracle(lambda case: answers[case]), ["multiple"], limit=3)
    rows = store.read("evaluations").to_pylist()
    assert len({row["row_id"] for row in rows}) == 3
    for row in rows:
        assert (row["run_id"], row["benchmark"], row["category"], row["mode"]) == ("rows", "bfcl", "multiple", "fc")
        assert row["passed"] and row["score"] == 1.0 and row["error_type"] is None and row["policy_id"] == "oracle"
        call = json.loads(row["output"])["tool_calls"][0]["function"]
        assert [(call["name"], call["arguments"])] == answers[row["case_id"]]
        prompt = json.loads(row["prompt"])
        assert prompt["messages"][-1]["role"] == "user"
        assert call["name"] in {tool["function"]["name"] for tool in prompt["tools"]}


def test_a_run_goes_on_where_it_stopped(store: LanceStore, gold: Callable) -> None:
    answers = gold("simple_python")
    down = True

    def answer(case: str) -> list[tuple[str, str]]:
        if down and int(case.rsplit("_", 1)[1]) % 2:
            raise EngineError("The endpoint is down.")
        return answers[case]

    policy = Oracle(answer)
    with pytest.raises(EvaluationError, match=r"of 10 BFCL cases got no answer"), start_run(store, "eval", "r") as run:
        evaluate_bfcl(store, run, policy, ["simple_python"], limit=10)
    answered = {row["case_id"] for row in store.read("evaluations").to_pylist()}
    assert 0 < len(answered) < 10
    down, policy.requested = False, []
    with start_run(store, "eval", "r") as run:
        summary = evaluate_bfcl(store, run, policy, ["simple_python"], limit=10)
    assert not answered & set(policy.requested) and len(answered) + len(policy.requested) == 10
    assert summary.accuracy == {"simple_python": 1.0}


def test_one_run_evaluates_one_policy(store: LanceStore) -> None:
    with start_run(store, "eval", "r") as run:
        evaluate_bfcl(store, run, Oracle(lambda case: []), ["irrelevance"], limit=1)
    with pytest.raises(ConfigError, match="holds an evaluation of oracle"), start_run(store, "eval", "r") as run:
        evaluate_bfcl(store, run, Oracle(lambda case: [], "other"), ["irrelevance"], limit=1)


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (TemplateError("The chat template cannot render the conversation."), "template"),
        (EngineRefused("Not this."), "engine_refused"),
        (PromptTooLong("The context is 512 tokens."), "prompt_too_long"),
    ],
)
def test_what_the_engine_cannot_take_is_a_failed_case(store: LanceStore, error: Exception, error_type: str) -> None:
    def refuse(case: str) -> list[tuple[str, str]]:
        raise error

    with start_run(store, "eval", "r") as run:
        summary = evaluate_bfcl(store, run, Oracle(refuse), ["live_relevance"], limit=2)
    assert summary.categories["live_relevance"].errors == {error_type: 2}


def test_an_interrupted_run_keeps_what_was_judged(store: LanceStore) -> None:
    def answer(case: str) -> list[tuple[str, str]]:
        if len(policy.requested) > 3:
            raise KeyboardInterrupt
        return []

    policy = Oracle(answer)
    with pytest.raises(KeyboardInterrupt), start_run(store, "eval", "r") as run:
        evaluate_bfcl(store, run, policy, ["irrelevance"], limit=9, concurrency=1)
    assert store.read("evaluations").num_rows == 3
    assert get_run(store, "r")["status"] == "aborted"
