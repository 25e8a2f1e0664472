"""A session of tools: executes the policy's calls and returns their results."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ..base.errors import ConfigError, one_line
from ..base.threads import in_loop, in_thread
from ..policies.types import Turn
from ..store.messages import Message, ToolCall
from ..store.task import Score
from .typed_tools import ArgumentsError, as_text, schema_of, typed_tool
from .types import Done

__all__ = ["ToolOutput", "ToolSession", "schema_of", "tool_session"]


@dataclass(frozen=True)
class ToolOutput:
    """The result of one call: the text that the policy sees, and whether it reports an error."""

    text: str
    failed: bool = False


Execute = Callable[[str, Any], ToolOutput | Awaitable[ToolOutput]]
User = Callable[["ToolSession"], str | Awaitable[str | None] | None]
Verify = Callable[["ToolSession"], Score | Awaitable[Score]]


class ToolSession:
    """One episode over tools.

    A turn without a tool call ends the episode, except one that holds reasoning only, and unless a user answers it; so does a turn that the token
    limit cut (its calls are not executed). The agent loop limits the number of turns.

    Attributes:
        calls: Every call the policy made, in order, executed or not.
        messages: What followed the prompt so far: the policy's turns, tool outputs and user turns.
        cut: Whether the token limit cut the last turn.
        n_tool_errors: Calls answered by an error: unreadable arguments, an unknown tool, a tool that failed or took too long.
        tool_seconds: Tool name to its slowest call so far.
        tool_limit_s: Seconds an awaited call may take; None is no limit. The agent loop sets it.
    """

    def __init__(
        self,
        execute: Execute,
        score: Callable[[Sequence[ToolCall]], Score | Awaitable[Score]],
        user: Callable[[], Awaitable[str | None]] | None = None,
        free: Callable[[], Awaitable[None] | None] | None = None,
    ) -> None:
        """Makes a session.

        Args:
            execute: Gets a tool's name and the parsed arguments (any JSON value). A direct result is computed on the event loop and must
                take microseconds; an awaitable has the time limit. An exception fails the episode.
            score: Judges the calls made.
            user: Answers a turn without a call; None ends the episode.
            free: Called once, when the session is closed.
        """
        self.calls: list[ToolCall] = []
        self.messages: list[Message] = []
        self.cut = False
        self.n_tool_errors = 0
        self.tool_seconds: dict[str, float] = {}
        self.tool_limit_s: float | None = None
        self._execute = execute
        self._score = score
        self._user = user
        self._free = free

    @property
    def answer(self) -> str:
        """The text of the policy's last turn, "" without any."""
        texts = [message.text for message in self.messages if message.role == "assistant"]
        return (texts[-1] if texts else None) or ""

    async def step(self, turn: Turn) -> list[Message] | Done:
        """Executes the turn's calls and returns their outputs as tool messages, or the user's message, or Done."""
        message = turn.message
        self.messages.append(message)
        self.calls.extend(message.tool_calls)
        self.cut = turn.stop_reason == "length"
        if self.cut:
            return Done("length")
        if message.tool_calls or _reasoning_only(message):
            answers = [Message("tool", await self._answer(call), tool_call_id=call.id) for call in message.tool_calls]
        else:
            reply = None if self._user is None else await self._user()
            if reply is None:
                return Done("stop")
            answers = [Message("user", reply)]
        self.messages += answers
        return answers

    def verify(self) -> Score | Awaitable[Score]:
        """The verdict on the calls made so far."""
        return self._score(self.calls)

    def close(self) -> Awaitable[None] | None:
        """Frees the session's state."""
        self._execute = _closed
        free, self._free = self._free, None
        return free() if free is not None else None

    async def _answer(self, call: ToolCall) -> str:
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, TypeError, RecursionError) as error:
            output = ToolOutput(json.dumps({"error": f"Invalid tool call arguments: {error!r}"}), failed=True)
        else:
            start = perf_counter()
            output = self._execute(call.name, arguments)
            if not isinstance(output, ToolOutput):
                output = await self._limited(call.name, output)
            self.tool_seconds[call.name] = max(self.tool_seconds.get(call.name, 0.0), perf_counter() - start)
        self.n_tool_errors += output.failed
        return output.text

    async def _limited(self, name: str, work: Awaitable[ToolOutput]) -> ToolOutput:
        limit = asyncio.timeout(self.tool_limit_s)
        try:
            async with limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            return ToolOutput(f"Error: {name} took longer than {self.tool_limit_s:g} s", failed=True)


def tool_session(
    tools: Iterable[Callable[..., Any]],
    verify: Verify,
    *,
    user: User | None = None,
    fatal: tuple[type[Exception], ...] = (),
    inline: bool = False,
    free: Callable[[], Any] | None = None,
) -> ToolSession:
    """A session over plain typed functions or methods, sync or async. `schema_of` returns their schemas for the task.

    Arguments are checked against the types. A tool's result goes to the policy, a string unchanged, other values as JSON; an exception goes there
    as `Error: …`, and counts as a tool error. Tools, `verify` and `user` run beside the event loop, one at a time in a session: sync ones in threads,
    async ones on a loop that all of them share.

    Args:
        verify: Judges the session at its end (`calls`, `messages`, `answer`, and whatever state the tools left). An exception fails the rollout.
        user: The user's answer to a turn without a call; None ends the episode. Without it such a turn ends the episode.
        fatal: Exceptions of a tool that fail the rollout instead of going to the policy.
        inline: Run sync code on the event loop: for code that takes microseconds and never waits.
        free: Called when the session is closed.

    Raises ConfigError for a function without types or docstring, and for two of one name.
    """
    named = {}
    for tool in tools:
        typed = typed_tool(tool)
        if typed.name in named:
            raise ConfigError(f"Two tools are called {typed.name}.", "Give one of them another name.")
        named[typed.name] = tool, typed

    async def execute(name: str, arguments: Any) -> ToolOutput:
        if name not in named:
            return ToolOutput(f"Error: there is no tool {name!r}; there are {', '.join(named)}", failed=True)
        function, typed = named[name]
        try:
            return ToolOutput(as_text(await _run(inline, function, **typed.check(arguments))))
        except fatal:
            raise
        except ArgumentsError as error:
            return ToolOutput(f"Error: invalid arguments: {error}", failed=True)
        except (Exception, SystemExit) as error:
            return ToolOutput(f"Error: {one_line(error) or type(error).__name__}", failed=True)

    async def score(calls: Sequence[ToolCall]) -> Score:
        verdict = await _run(inline, verify, session)
        if not isinstance(verdict, Score):
            raise TypeError(f"verify returned a {type(verdict).__name__}, not a Score")
        return verdict

    async def reply() -> str | None:
        assert user is not None
        return await _run(inline, user, session)

    async def release() -> None:
        assert free is not None
        await _run(inline, free)

    session = ToolSession(execute, score, reply if user is not None else None, release if free is not None else None)
    return session


async def run_user_code(function: Callable[..., Any], *args: Any) -> Any:
    """What a user's function returns, run beside the event loop: in a thread, or on the second loop if it is async."""
    return await _run(False, function, *args)


async def _run(inline: bool, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if inline or inspect.iscoroutinefunction(inspect.unwrap(function)):
        value = function(*args, **kwargs)
    else:
        value = await in_thread(function, *args, **kwargs)
    return await in_loop(value) if inspect.isawaitable(value) else value


def _reasoning_only(message: Message) -> bool:
    return message.reasoning is not None and message.text is None and message.parts is None


def _closed(name: str, arguments: Any) -> ToolOutput:
    raise RuntimeError("The session is closed.")
