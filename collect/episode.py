"""One episode: a policy and a session take turns until one is done, and what happened becomes one row."""

import asyncio
import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ..base.errors import EngineError, RollhouseError, SchemaMismatch, one_line
from ..environments.mixture import limits_of
from ..environments.shaping import check_score
from ..environments.types import Environment
from ..policies.chat import TemplateError
from ..policies.engines.base import EngineGone, EngineRefused
from ..policies.routes import pack_routes
from ..policies.types import Conversation, Policy, Sampling, Turn
from ..store.ids import group_id, rollout_id, slot_id
from ..store.rollout import VERDICT, Rollout, verdict_columns
from ..store.task import Score, Task

_CLOSE_LIMIT_S = 10.0


@dataclass(frozen=True)
class Slot:
    """The place of one rollout in a run.

    Attributes:
        task_id, prompt_id: Of the task, worked out once: they cost a hash of the prompt.
        step: Optimizer step it is collected for; None outside online training.
    """

    run_id: str
    step: int | None
    task: Task
    task_id: str
    prompt_id: str
    sample_index: int
    attempt: int = 0

    @property
    def rollout_id(self) -> str:
        """The key of its row."""
        return rollout_id(self.run_id, self.step, self.task_id, self.sample_index, self.attempt)


@dataclass
class _Record:
    """What an episode adds up to while it runs. Times are seconds."""

    conversation: Conversation
    status: str = "completed"
    stop_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    score: Score | None = None
    n_turns: int = 0
    n_empty_turns: int = 0
    n_parse_failures: int = 0
    n_tool_errors: int = 0
    n_retries: int = 0
    tool_seconds: Mapping[str, float] = field(default_factory=dict)
    generate_s: float = 0.0
    tool_s: float = 0.0
    verify_s: float = 0.0


@dataclass(frozen=True)
class Episode:
    """The result of one episode.

    Attributes:
        rollout: Its main row.
        score: The environment's own verdict, None when it gave none.
        tool_seconds: Tool name to its slowest call, in seconds; empty when the session does not report them.
        others: Further rows of the episode: branches and other agents.
    """

    rollout: Rollout
    score: Score | None = None
    tool_seconds: Mapping[str, float] = field(default_factory=dict)
    others: tuple[Rollout, ...] = ()


async def play_episode(
    environment: Environment,
    policy: Policy,
    slot: Slot,
    sampling: Sampling,
    max_turns: int = 6,
    time_limit_s: float = 600.0,
    tool_limit_s: float | None = None,
) -> Episode:
    """Plays one rollout. Limits that a mixture has for the task's environment replace those given here.

    Whatever fails becomes the row's status `error` (with the boundary that failed as error_type) or `timeout`, and its reward is null.
    Raises only EngineGone, after which no other rollout could succeed, and CancelledError.

    Args:
        time_limit_s: Wall clock of the rollout.
        tool_limit_s: Wall clock of one tool call, for sessions that take a limit; None is no limit.
    """
    own = limits_of(environment, slot.task)
    max_turns, time_limit_s = own.max_turns or max_turns, own.time_limit_s or time_limit_s
    tool_limit_s = own.tool_time_limit_s or tool_limit_s
    record = _Record(Conversation(slot.task, sample_index=slot.sample_index))
    started_at, start = datetime.now(UTC), time.perf_counter()
    limit = asyncio.timeout(time_limit_s)
    try:
        async with limit:
            await _play(environment, policy, record, sampling, max_turns, tool_limit_s)
    except TimeoutError:
        if not limit.expired():
            raise
    if limit.expired():
        record.status, record.stop_reason, record.score = "timeout", "timeout", None
        record.error_type, record.error_message = "timeout", f"the rollout took longer than {time_limit_s:g} s"
    rollout = _rollout(record, policy, slot, sampling, started_at, time.perf_counter() - start)
    return Episode(rollout, record.score, record.tool_seconds)


def lost_episode(policy: Policy, slot: Slot, sampling: Sampling, error_type: str, message: str) -> Episode:
    """The rollout of a slot of which only the failure is known."""
    record = _Record(Conversation(slot.task, sample_index=slot.sample_index), "error", "error", error_type, message)
    return Episode(_rollout(record, policy, slot, sampling, datetime.now(UTC), 0.0))


async def _play(
    environment: Environment,
    policy: Policy,
    record: _Record,
    sampling: Sampling,
    max_turns: int,
    tool_limit_s: float | None,
) -> None:
    boundary = "environment"
    session = None
    try:
        session = await _value(environment.start(record.conversation.task))
        if hasattr(session, "tool_limit_s"):
            session.tool_limit_s = tool_limit_s
        while record.stop_reason is None:
            boundary = "engine"
            turn = await _timed(record, "generate_s", policy.respond(record.conversation, sampling))
            boundary = "environment"
            await _take_turn(record, session, turn, max_turns)
        boundary = "verifier"
        start = time.perf_counter()
        score = await _value(session.verify())
        record.score = check_score(_with_empty_turns(score, record), record.n_turns)
        record.verify_s = time.perf_counter() - start
        record.status = "completed" if record.stop_reason == "stop" else "truncated"
    except EngineGone:
        raise
    # A failed rollout is a row, never the end of its run, also when a tool calls sys.exit(). The time limit comes as CancelledError; a
    # TimeoutError is somebody else's.
    except (Exception, SystemExit) as error:
        record.status, record.stop_reason = "error", "error"
        record.error_type, record.error_message = _error_type(error, boundary), _said(error)
        record.n_retries += error.retries if isinstance(error, EngineError) else 0
    finally:
        if session is not None:
            await _close(session, record)


async def _close(session: Any, record: _Record) -> None:
    """Takes what the session counted and ends it. One that cannot be closed leaves the verdict as it is, and the row names it."""
    record.n_tool_errors = getattr(session, "n_tool_errors", 0)
    record.tool_seconds = dict(getattr(session, "tool_seconds", {}))
    try:
        async with asyncio.timeout(_CLOSE_LIMIT_S):
            await _value(session.close())
    except (Exception, SystemExit) as error:
        if record.error_type is None:
            record.error_type, record.error_message = "close", _said(error)


async def _value(given: Any) -> Any:
    """What an environment gave, or what it is once awaited."""
    return await given if inspect.isawaitable(given) else given


async def _take_turn(record: _Record, session: Any, turn: Turn, max_turns: int) -> None:
    """Adds the turn and the session's answer to the conversation; sets stop_reason when the episode is over."""
    record.n_turns += 1
    record.n_parse_failures += turn.parse_failures
    record.n_retries += turn.retries
    messages = record.conversation.messages
    if turn.token_ids != []:  # an empty turn means that the context is full
        messages.append(turn.message)
    else:
        record.n_empty_turns += 1
    answer = await _timed(record, "tool_s", session.step(turn))
    if isinstance(answer, list):
        messages += answer
        if record.n_turns >= max_turns:
            record.stop_reason = "max_turns"
    else:
        messages += answer.messages
        record.stop_reason = "length" if turn.stop_reason == "length" else answer.reason


def _with_empty_turns(score: Score, record: _Record) -> Score:
    """A verdict with a reward of 0 for each empty turn, where the session judged only turns with a message."""
    given = score.turn_rewards if isinstance(score, Score) else None
    if not record.n_empty_turns or given is None or len(given) != record.n_turns - record.n_empty_turns:
        return score
    return replace(score, turn_rewards=(*given, *[0.0] * record.n_empty_turns))


async def _timed(record: _Record, name: str, work: Any) -> Any:
    start = time.perf_counter()
    try:
        return await work
    finally:
        setattr(record, name, getattr(record, name) + time.perf_counter() - start)


def _rollout(
    record: _Record, policy: Policy, slot: Slot, sampling: Sampling, started_at: datetime, duration_s: float
) -> Rollout:
    talk = record.conversation
    columns: dict[str, Any] = {
        "rollout_id": slot.rollout_id,
        "slot_id": slot_id(slot.run_id, slot.step, slot.task_id, slot.sample_index),
        "run_id": slot.run_id,
        "step": slot.step,
        "task": slot.task,
        "task_id": slot.task_id,
        "prompt_id": slot.prompt_id,
        "group_id": group_id(slot.run_id, slot.step, slot.task_id),
        "sample_index": slot.sample_index,
        "attempt": slot.attempt,
        "episode_id": slot.rollout_id,
        "environment": slot.task.environment,
        "policy_id": policy.policy_id,
        "engine": policy.engine,
        **_sampling_columns(policy, sampling),
        "n_turns": record.n_turns,
        "n_tool_errors": record.n_tool_errors,
        "n_parse_failures": record.n_parse_failures,
        "n_retries": record.n_retries,
        "gaps": talk.gaps,
        "started_at": started_at,
        "duration_s": duration_s,
        "generate_s": record.generate_s,
        "tool_s": record.tool_s,
        "verify_s": record.verify_s,
    }
    ended = {
        "status": record.status,
        "stop_reason": record.stop_reason,
        "error_type": record.error_type,
        "error_message": record.error_message,
    }
    try:
        return Rollout(
            messages=talk.messages, **columns, **ended, **token_columns(talk, policy), **verdict_columns(record.score)
        )
    except SchemaMismatch as error:
        return without_content(Rollout(messages=[], **columns, status="error"), error)


def without_content(rollout: Rollout, error: Exception) -> Rollout:
    """The rollout without its messages, tokens and verdict, as an error of the store."""
    nothing = dict.fromkeys(
        (
            "token_ids",
            "loss_mask",
            "logprobs",
            "version_spans",
            "routed_experts",
            "prompt_token_ids",
            "turn_rewards",
            *VERDICT,
        )
    )
    failed = {"status": "error", "error_type": "store", "error_message": one_line(ascii(str(error)).strip("'\""))}
    found = rollout.changed(**nothing, scores=[], **failed)
    found.__dict__["messages"] = None  # stored as null: there were some
    return found


def _sampling_columns(policy: Policy, sampling: Sampling) -> dict[str, Any]:
    if policy.engine == "scripted":
        return {}
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_tokens,
        "sampling_seed": sampling.seed,
    }


def token_columns(conversation: Conversation, policy: Policy) -> dict[str, Any]:
    """Token columns and the prompt's tokens; None when no tokens were observed. A policy without weights of its own has version 0."""
    spans = conversation.version_spans
    version = getattr(policy, "version", 0)
    versions = {
        "policy_version": spans[0].version if spans else version,
        "policy_version_last": spans[-1].version if spans else version,
    }
    if conversation.prompt_ids is None:
        return versions
    tokenizer_hash, template_hash = _token_identity(conversation, policy) or (None, None)
    sampled = sum(conversation.loss_mask)
    shown = bool(conversation.logprobs) or not sampled
    return {
        **versions,
        "version_spans": spans,
        "tokenizer_hash": tokenizer_hash,
        "template_hash": template_hash,
        "logprobs_mode": conversation.logprobs_mode if shown else None,
        "prompt_token_ids": conversation.prompt_ids,
        "token_ids": conversation.token_ids,
        "loss_mask": conversation.loss_mask,
        "logprobs": conversation.logprobs if shown else None,
        "routed_experts": None if conversation.routes is None else pack_routes(conversation.routes),
        "n_prompt_tokens": len(conversation.prompt_ids),
        "n_tokens": len(conversation.token_ids),
        "n_sampled_tokens": sampled,
        "prefix_ok": conversation.prefix_ok,
    }


def _token_identity(conversation: Conversation, policy: Policy) -> tuple[str | None, str | None] | None:
    """Of the tokens that were seen; None for a policy that shows none, or has no identity."""
    return conversation.token_identity or getattr(policy, "token_identity", None)


def _error_type(error: BaseException, boundary: str) -> str:
    if isinstance(error, EngineRefused):
        return error.error_type
    return "template" if isinstance(error, TemplateError) else boundary


def _said(error: BaseException) -> str:
    return one_line(error.message if isinstance(error, RollhouseError) else f"{type(error).__name__}: {error}")
