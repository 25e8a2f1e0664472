"""A policy answers one BFCL case: one model call, or an episode of several user turns with simulated backends behind the tools."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...collect.chat import TemplateError
from ...collect.engines.base import EngineRefused
from ...collect.types import Conversation, Policy, Sampling, Task, Turn
from ...store.messages import Message
from .categories import is_multi_turn
from .checker import Answer, Checker, CheckerFailed, Verdict
from .tools import to_tool

BENCHMARK = "bfcl"
MAX_STEPS = 20  # model calls that may be answered in one turn; the benchmark fails a case that goes on


class Judge:
    """A Checker for coroutines: one request at a time, in a thread."""

    def __init__(self, checker: Checker, mode: str) -> None:
        self.checker, self.mode = checker, mode
        self._one = asyncio.Lock()

    async def __call__(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the checker in this mode."""
        async with self._one:
            return await asyncio.to_thread(getattr(self.checker, method), *arguments, self.mode)

    async def forget(self, episode: str) -> None:
        """Frees what the checker keeps of an episode."""
        async with self._one:
            await asyncio.to_thread(self.checker.forget, episode)


@dataclass
class Answered:
    """What a policy made of a case: its task as it was at the end, all messages after the prompt, the verdict."""

    task: Task
    messages: list[Message] = field(default_factory=list)
    verdict: Verdict = field(default_factory=lambda: Verdict(False, "unanswered"))


async def answer_case(
    policy: Policy, category: str, case: Mapping[str, Any], sampling: Sampling, judge: Judge
) -> Answered:
    """Asks the policy and judges what it says. What cannot be asked is a failed case. Raises EngineError when asking again may help."""
    answered = Answered(as_task(category, case))
    try:
        if is_multi_turn(category):
            await _play(policy, case, sampling, judge, answered)
        else:
            await _answer_once(policy, case, sampling, judge, answered)
    except TemplateError as error:
        answered.verdict = Verdict(False, "template", error.message)
    except EngineRefused as error:
        answered.verdict = Verdict(False, error.error_type, error.message)
    except CheckerFailed as error:
        answered.verdict = Verdict(False, str(error))
    return answered


def as_task(category: str, case: Mapping[str, Any]) -> Task:
    """A case as a task; it has no ground truth, for that never leaves the process that checks."""
    return Task(
        environment=BENCHMARK,
        messages=tuple(Message.from_openai(message) for message in case["turns"][0]),
        tools=tuple(to_tool(function) for function in case["functions"]),
        split="test",
        category=category,
        source_key=case["id"],
    )


async def _answer_once(
    policy: Policy, case: Mapping[str, Any], sampling: Sampling, judge: Judge, answered: Answered
) -> None:
    turn = await policy.respond(Conversation(answered.task), sampling)
    if _full(turn):
        answered.verdict = Verdict(False, "prompt_too_long", "the prompt fills the policy's context")
        return
    answered.messages.append(turn.message)
    category = answered.task.category or ""
    answered.verdict = await judge("check", category, case["id"], answer_of(turn.message, judge.mode))


async def _play(policy: Policy, case: Mapping[str, Any], sampling: Sampling, judge: Judge, answered: Answered) -> None:
    """Plays every user turn. A turn ends with an answer that calls nothing, and the case with one that calls MAX_STEPS times and goes on."""
    category, episode = answered.task.category or "", "r" + uuid.uuid4().hex
    conversation = Conversation(answered.task)
    turns: list[list[Answer]] = []
    try:
        for number, messages in enumerate(case["turns"]):
            if number:
                conversation = _next_turn(conversation, case, number, messages)
                answered.task, answered.messages = conversation.task, conversation.messages
            turns.append([])
            for _ in range(MAX_STEPS + 1):
                turn = await policy.respond(conversation, sampling)
                if _full(turn):
                    answered.verdict = Verdict(False, "prompt_too_long", "the conversation fills the policy's context")
                    return
                conversation.messages.append(turn.message)
                answered.messages = conversation.messages
                turns[-1].append(answer_of(turn.message, judge.mode))
                steps = [step for played in turns for step in played]
                results = await judge("execute", category, case["id"], episode, steps)
                if results is None:
                    break
                conversation.messages += _result_messages(turn.message, results, judge.mode)
            else:
                answered.verdict = Verdict(False, "multi_turn:force_terminated", f"more than {MAX_STEPS} steps in turn {number}")  # fmt: skip
                return
        answered.verdict = await judge("check_turns", category, case["id"], turns)
    finally:
        await judge.forget(episode)


def _next_turn(
    conversation: Conversation, case: Mapping[str, Any], number: int, messages: list[dict[str, Any]]
) -> Conversation:
    """The conversation with the next user turn. Functions that come with it change the prompt, so there it begins anew from its history."""
    said = [Message.from_openai(message) for message in messages]
    functions = case["later"].get(str(number))
    if not functions:
        conversation.messages += said
        return conversation
    task = conversation.task
    tools = (*task.tools, *(to_tool(function) for function in functions))
    return Conversation(replace(task, messages=(*task.messages, *conversation.messages, *said), tools=tools))


def answer_of(message: Message, mode: str) -> Answer:
    """What the checker is given of a model call."""
    if mode == "prompt":
        return message.text or ""
    return [(call.name, call.arguments) for call in message.tool_calls]


def _result_messages(message: Message, results: list[str], mode: str) -> list[Message]:
    if mode == "prompt":
        return [Message("user", result) for result in results]
    calls = zip(message.tool_calls, results, strict=True)
    return [Message("tool", result, tool_call_id=call.id) for call, result in calls]


def _full(turn: Turn) -> bool:
    return turn.token_ids == [] and turn.stop_reason == "length"
