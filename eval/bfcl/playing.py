"""A policy answers one BFCL case: one model call, or an episode of several with simulated backends behind the tools."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...policies.chat import TemplateError
from ...policies.engines.base import EngineRefused
from ...policies.types import Conversation, Policy, Sampling, Turn
from ...store.messages import Message
from ...store.reading import read_message
from ...store.task import Task
from ..summary import BROKEN_CALL
from .categories import is_played
from .checker import Answer, Checker, CheckerFailed, Memory, Verdict
from .tools import to_tool

BENCHMARK = "bfcl"
MAX_STEPS = 20  # model calls answered in one turn; the benchmark fails a case with more
ENDLESS = "multi_turn:force_terminated"


class Judge:
    """A Checker for coroutines: one request at a time, in a thread."""

    def __init__(self, checker: Checker, mode: str) -> None:
        self.checker, self.mode = checker, mode
        self._one = asyncio.Lock()

    async def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of the checker in this mode."""
        async with self._one:
            return await asyncio.to_thread(getattr(self.checker, method), *arguments, mode=self.mode, **options)

    async def forget(self, episode: str) -> None:
        """Frees the checker's state of an episode."""
        async with self._one:
            await asyncio.to_thread(self.checker.forget, episode)


@dataclass
class Answered:
    """A case as played by a policy.

    Attributes:
        task, messages: The task at the end, and all messages after its prompt.
        verdict: For a session, which is not judged, only its error type: None if it ended normally.
        memory: The policy's memory. A session that failed leaves it unchanged; one that was ended after MAX_STEPS calls changes it.
    """

    task: Task
    messages: list[Message] = field(default_factory=list)
    verdict: Verdict = field(default_factory=lambda: Verdict(False, "unanswered"))
    memory: Memory = None


async def answer_case(
    policy: Policy, category: str, case: Mapping[str, Any], sampling: Sampling, judge: Judge
) -> Answered:
    """Plays a case and judges it. A case that the engine refuses fails. Raises EngineError if a retry may help."""
    answered = Answered(as_task(category, case), memory=case.get("memory"))
    try:
        if is_played(category):
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
    """A case as a task. It has no ground truth, which stays in the checker process."""
    return Task(
        environment=BENCHMARK,
        messages=tuple(read_message(message) for message in case["turns"][0]),
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
    verdict = await judge("check", category, case["id"], answer_of(turn.message, judge.mode))
    # The benchmark takes a call that does not decode for no call: the score stays, and the case is counted.
    broken = verdict.passed and "irrelevance" in category and (turn.message.tool_calls or turn.parse_failures)
    answered.verdict = replace(verdict, error_type=BROKEN_CALL) if broken else verdict


async def _play(policy: Policy, case: Mapping[str, Any], sampling: Sampling, judge: Judge, answered: Answered) -> None:
    """Plays a case, then judges it; of a session the memory is kept instead."""
    category, episode = answered.task.category or "", "r" + uuid.uuid4().hex
    turns: list[list[Answer]] = []
    try:
        ended = await _play_turns(policy, case, sampling, judge, answered, episode, turns)
        if not case.get("fills_memory"):
            answered.verdict = ended or await judge("check_turns", category, case["id"], turns)
            return
        if ended is None or ended.error_type == ENDLESS:
            steps = [step for turn in turns for step in turn]
            answered.memory = await judge("remember", category, case["id"], episode, steps, memory=case["memory"])
        answered.verdict = ended or Verdict(True)
    finally:
        await judge.forget(episode)


async def _play_turns(
    policy: Policy,
    case: Mapping[str, Any],
    sampling: Sampling,
    judge: Judge,
    answered: Answered,
    episode: str,
    turns: list[list[Answer]],
) -> Verdict | None:
    """Plays every user turn and records its answers in `turns`. Returns a verdict if the case ended early.

    A turn ends with an answer without calls. The case ends early if a turn has more than MAX_STEPS calls.
    """
    category, memory = answered.task.category or "", case.get("memory")
    conversation = Conversation(answered.task)
    for number, messages in enumerate(case["turns"]):
        if number:
            conversation = _next_turn(conversation, case, number, messages)
            answered.task, answered.messages = conversation.task, conversation.messages
        turns.append([])
        for _ in range(MAX_STEPS + 1):
            turn = await policy.respond(conversation, sampling)
            if _full(turn):
                return Verdict(False, "prompt_too_long", "the conversation fills the policy's context")
            conversation.messages.append(turn.message)
            answered.messages = conversation.messages
            turns[-1].append(answer_of(turn.message, judge.mode))
            steps = [step for played in turns for step in played]
            results = await judge("execute", category, case["id"], episode, steps, memory=memory)
            if results is None:
                break
            conversation.messages += _result_messages(turn.message, results, judge.mode)
        else:
            return Verdict(False, ENDLESS, f"more than {MAX_STEPS} steps in turn {number}")
    return None


def _next_turn(
    conversation: Conversation, case: Mapping[str, Any], number: int, messages: list[dict[str, Any]]
) -> Conversation:
    """The conversation with the next user turn. Functions that come with it change the prompt, so the conversation restarts with its history."""
    added = [read_message(message) for message in messages]
    functions = case["later"].get(str(number))
    if not functions:
        conversation.messages += added
        return conversation
    task = conversation.task
    tools = (*task.tools, *(to_tool(function) for function in functions))
    return Conversation(replace(task, messages=(*task.messages, *conversation.messages, *added), tools=tools))


def answer_of(message: Message, mode: str) -> Answer:
    """A model call as the checker takes it."""
    if mode == "prompt" or not message.tool_calls:
        return message.text or ""
    return [(call.name, call.arguments) for call in message.tool_calls]


def _result_messages(message: Message, results: list[str], mode: str) -> list[Message]:
    if mode == "prompt":
        return [Message("user", result) for result in results]
    calls = zip(message.tool_calls, results, strict=True)
    return [Message("tool", result, tool_call_id=call.id) for call, result in calls]


def _full(turn: Turn) -> bool:
    return turn.token_ids == [] and turn.stop_reason == "length"
