"""Environments of the verifiers package (its `load_environment` API, 0.1): they run their own episodes and call our policy as their model.

The client of verifiers is a bridge here: when an environment's rollout requests a model response, it waits for the policy's turn from the
agent loop. The environment's own rules hold: the end of an episode, user turns, tool results, scores.
It runs on an event loop in a separate thread, so blocking code of an environment delays only rollouts of such environments.
"""

import asyncio
import functools
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from ...base.errors import ConfigError, RollhouseError, one_line
from ...base.packages import need
from ...base.threads import in_loop, start_in_loop
from ...policies.types import Turn
from ...store.messages import Message
from ...store.reading import read_message, read_messages
from ...store.task import Score, Task
from ..types import Done

_NO_TRUTH = ("prompt", "example_id")
_CRASHES: ContextVar[list[str] | None] = ContextVar("crashes", default=None)


class VerifiersError(RollhouseError):
    """A verifiers environment failed, or cannot be recorded."""


class VerifiersEnvironment:
    """An environment of the verifiers package by its id: an installed one, or a module in the current folder."""

    def __init__(self, env_id: str, name: str | None = None, **options: Any) -> None:
        """Loads it. Raises ConfigError when it does not exist or scores whole groups.

        Args:
            name: The environment of tasks and rollouts; None is its id.
            options: Arguments of its `load_environment`.
        """
        vf = need("verifiers")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._inner: Any = vf.load_environment(env_id, **options)
        except Exception as error:
            raise ConfigError(f"verifiers cannot load {env_id!r}: {one_line(error)}.", "Install the environment, or run where its module is.") from error  # fmt: skip
        finally:  # it takes Ctrl-C for itself
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if not isinstance(self._inner, vf.MultiTurnEnv) or self._inner.requires_group_rollouts:
            raise ConfigError(f"{env_id!r} is not an environment of turns that scores one rollout at a time.", "Take a SingleTurnEnv, MultiTurnEnv or ToolEnv.")  # fmt: skip
        self.name = name or env_id
        self.scorer, self.scorer_version = f"verifiers/{self.name}", vf.__version__
        self._weights = _watch(self._inner.rubric)

    def tasks(self, split: str) -> Iterator[Task]:
        """The rows of its dataset (`train`) or of its evaluation dataset (`validation`), in order; there is no other split."""
        inner = self._inner
        held_out = inner.eval_dataset_source is not None or inner.eval_dataset is not None
        if split == "train" and (inner.dataset_source is not None or inner.dataset is not None):
            rows = inner.get_dataset()
        elif split == "validation" and held_out:
            rows = inner.get_eval_dataset()
        else:
            return
        for row in rows:
            yield self._task(json.loads(json.dumps(row, default=str)), split)

    async def start(self, task: Task) -> "VerifiersSession":
        """A rollout of the environment, up to its first request to the model."""
        row = {
            **task.ground_truth,
            "prompt": [message.to_openai() for message in task.messages],
            "example_id": int(task.source_key or 0),
        }
        session = VerifiersSession(self, self._inner, row)
        try:
            await in_loop(session.begin())
        except BaseException:
            start_in_loop(session.end())  # not awaited: the other loop may hang
            raise
        return session

    def score(self, state: Any) -> Score:
        """The rubric's verdict in the state: each function is a component."""
        reward = float(state["reward"])
        parts = tuple((name, float(value), self._weights.get(name, 0.0)) for name, value in state["metrics"].items())
        return Score(reward, reward >= self._inner.pass_threshold, self.scorer, self.scorer_version, parts)

    def _task(self, row: dict[str, Any], split: str) -> Task:
        info = json.loads(row["info"]) if isinstance(row.get("info"), str) else row.get("info") or {}
        tools = info.get("tool_defs") or [tool.model_dump(exclude_none=True) for tool in self._inner.tool_defs or []]
        return Task(
            self.name,
            tuple(read_messages(row["prompt"])),
            tuple({"type": "function", "function": tool} for tool in tools),
            ground_truth={key: value for key, value in row.items() if key not in _NO_TRUTH},
            split=split,
            source_key=str(row["example_id"]),
        )


class VerifiersSession:
    """One rollout of a verifiers environment, one model response at a time.

    Everything except `step`, `verify` and `close` runs on the other loop.
    """

    def __init__(self, environment: VerifiersEnvironment, inner: Any, row: dict[str, Any]) -> None:
        self._environment = environment
        self._inner = inner
        self._row = row
        self._asked: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._answers: asyncio.Queue[Turn | None] = asyncio.Queue()
        self._rollout: asyncio.Task[Any] | None = None
        self._seen: list[Any] = []

    async def step(self, turn: Turn) -> list[Message] | Done:
        """The environment's answer to the turn, or Done at the end. Raises VerifiersError when it fails."""
        return await in_loop(self._advance(turn))

    async def verify(self) -> Score:
        """The rubric's verdict. A rollout that has not ended is first ended as one with a full context. Raises VerifiersError for a reward function that fails."""
        return await in_loop(self._verdict())

    async def close(self) -> None:
        """Ends the rollout if it is running, and runs the environment's cleanup."""
        await in_loop(self.end())

    async def begin(self) -> None:
        """Starts the rollout and waits for its first request, which must be the task's prompt."""
        client = _bridge(self)
        self._rollout = asyncio.create_task(self._inner.rollout(self._row, client, "policy", {}))
        messages = await self._next_question()
        if messages is None:
            raise VerifiersError(f"{self._environment.name} ended before its first question.", "See its log.")
        if len(messages) != len(self._row["prompt"]):
            raise VerifiersError(f"{self._environment.name} changes its prompt when it starts.", "Such environments cannot be recorded here.")  # fmt: skip
        self._seen = messages

    async def respond(self, prompt: list[Any]) -> Turn | None:
        """Called by the bridge: the policy's turn, None when there is none left."""
        self._asked.put_nowait(list(prompt))
        return await self._answers.get()

    async def _advance(self, turn: Turn) -> list[Message] | Done:
        self._answers.put_nowait(turn)
        messages = await self._next_question()
        if messages is not None:
            known = len(self._seen) + 1
            if [_plain(one) for one in messages[: known - 1]] != [_plain(one) for one in self._seen]:
                raise VerifiersError(f"{self._environment.name} rewrites earlier messages.", "Such environments cannot be recorded here.")  # fmt: skip
            self._seen = messages
            return [_message(one) for one in messages[known:]]
        state = self._state()
        cut = state.get("stop_condition") == "max_turns_reached" and bool(turn.message.tool_calls)
        return Done(
            "max_turns" if cut else "stop", tuple(_message(one) for one in state.get("final_env_response") or ())
        )

    async def _next_question(self) -> list[Any] | None:
        """The next messages for the model; None when the rollout has ended."""
        assert self._rollout is not None
        question = asyncio.create_task(self._asked.get())
        await asyncio.wait({question, self._rollout}, return_when=asyncio.FIRST_COMPLETED)
        if question.done():
            return question.result()
        question.cancel()
        self._state()
        return None

    def _state(self) -> Any:
        assert self._rollout is not None
        state = self._rollout.result()
        if state.get("error") is not None:
            error = state["error"]
            raise VerifiersError(f"{self._environment.name} failed: {type(error).__name__}: {one_line(error.__cause__ or error)}.", "See its log.")  # fmt: skip
        return state

    async def _verdict(self) -> Score:
        assert self._rollout is not None
        if not self._rollout.done():
            self._answers.put_nowait(None)
            await asyncio.wait({self._rollout})
        state = self._state()
        crashes: list[str] = []
        _CRASHES.set(crashes)
        await self._inner.rubric.score_rollout(state)
        await self._inner.rubric.cleanup(state)
        if crashes:
            raise VerifiersError(f"A reward function of {self._environment.name} failed: {'; '.join(crashes)}.", "Correct it.")  # fmt: skip
        return self._environment.score(state)

    async def end(self) -> None:
        """Cancels the rollout if it is running."""
        if self._rollout is not None and not self._rollout.done():
            self._rollout.cancel()
            await asyncio.wait({self._rollout})


def _bridge(session: VerifiersSession) -> Any:
    """A client of the verifiers package whose model is the session's policy."""
    clients, errors, types = (
        importlib.import_module(f"verifiers.{part}") for part in ("clients.client", "errors", "types")
    )

    async def answer(self: Any, prompt: Any, **_: Any) -> Any:
        turn = await session.respond(prompt)
        if turn is None:
            raise errors.OverlongPromptError("the rollout ends here")
        message = turn.message
        answer = types.ResponseMessage(
            content=message.text,
            reasoning_content=message.reasoning,
            tool_calls=[types.ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in message.tool_calls] or None,
            finish_reason="length" if turn.stop_reason == "length" else "tool_calls" if message.tool_calls else "stop",
            is_truncated=turn.stop_reason == "length",
        )  # fmt: skip
        return types.Response(id="policy", created=0, model="policy", message=answer)

    kind = type("PolicyClient", (clients.Client,), {"get_response": answer, "__abstractmethods__": frozenset()})
    kind.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return kind(None)


def _watch(rubric: Any) -> dict[str, float]:
    """Makes failures of the rubric's reward functions visible, which verifiers turns into a 0; returns their weights by name."""
    weights: dict[str, float] = {}
    for part in getattr(rubric, "rubrics", None) or [rubric]:
        if getattr(part, "rubrics", None):
            weights |= _watch(part)
            continue
        weights |= {
            function.__name__: float(weight) for function, weight in zip(part.funcs, part.weights, strict=False)
        }
        part.funcs = [_telling(function) for function in part.funcs]
    return weights


def _telling(function: Any) -> Any:
    @functools.wraps(function)
    async def reporting(*args: Any, **kwargs: Any) -> Any:
        try:
            value = function(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value
        except Exception as error:
            crashes = _CRASHES.get()
            if crashes is not None:
                crashes.append(f"{function.__name__}: {type(error).__name__}: {one_line(error, 200)}")
            raise

    return reporting


def _plain(message: Any) -> dict[str, Any]:
    plain = message if isinstance(message, dict) else message.model_dump(exclude_none=True)
    return {key: value for key, value in plain.items() if value is not None}


def _message(message: Any) -> Message:
    """A message of verifiers, whose tool calls are flat."""
    return read_message(_plain(message))
