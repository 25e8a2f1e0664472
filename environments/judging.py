"""A language model as a judge: any OpenAI-compatible endpoint, and one question to it."""

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

from ..base.errors import ConfigError, RollhouseError
from ..base.http import Backoff, HttpAnswer, HttpFailure, send, with_retries
from ..base.packages import need, require
from ..base.secrets import refuse_in_url


class JudgeError(RollhouseError):
    """The judge reached no verdict: its endpoint failed, or its answer is not in the form that was requested."""


@dataclass(frozen=True)
class JudgeEndpoint:
    """Settings of a judge.

    Attributes:
        url: The endpoint, usually ending in `/v1`.
        model: None is the first model of the endpoint.
        timeout_s: Seconds of one request.
        retries: The most times a request is sent again after 408, 425, 429, 5xx or a broken connection.
        concurrency: Questions in flight.
        api_key_env: The environment variable of the key, if the endpoint needs one; the key itself is stored nowhere.
    """

    # A key that is none of these is an error, also where pydantic makes the judge of a mapping.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    url: str
    model: str | None = None
    temperature: float = 0.0
    max_tokens: int = 512
    timeout_s: float = 60.0
    retries: int = 3
    concurrency: int = 32
    api_key_env: str = "OPENAI_API_KEY"

    @classmethod
    def of(cls, given: "Self | Mapping[str, Any] | str | None") -> "Self | None":
        """The judge of a setting: its URL, a mapping of fields, or None. Raises ConfigError for an invalid one."""
        if given is None or isinstance(given, cls):
            return given
        try:
            judge = cls(given) if isinstance(given, str) else cls(**given)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(f"The judge's settings are wrong: {error}.", f"They are {', '.join(one.name for one in fields(cls))}.") from None  # fmt: skip
        judge.check()
        return judge

    def check(self) -> None:
        """Raises ConfigError for a wrong URL, MissingExtra without aiohttp."""
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"The judge's url is {self.url!r}.", "Write it as http://127.0.0.1:8000/v1.")
        refuse_in_url(self.url, "The judge's URL")
        require("aiohttp")

    def slots(self) -> AbstractAsyncContextManager[Any]:
        """A place among the `concurrency` questions in flight of the running event loop."""
        of_loop = _in_flight.setdefault(asyncio.get_running_loop(), {})
        return of_loop.setdefault(self, asyncio.Semaphore(self.concurrency))


_in_flight: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[JudgeEndpoint, asyncio.Semaphore]] = WeakKeyDictionary()


async def judge_answer(judge: JudgeEndpoint, role: str, shown: str) -> str:
    """The judge's answer to one question.

    Args:
        role: The system message.
        shown: The user's message.

    Raises JudgeError.
    """
    aiohttp = need("aiohttp")
    key = os.environ.get(judge.api_key_env)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limit = aiohttp.ClientTimeout(total=judge.timeout_s)

    async def attempt(_: int) -> str:
        async with aiohttp.ClientSession(headers=headers, timeout=limit) as client:
            return await _complete(judge, client, role, shown)

    try:
        answer, _ = await with_retries(attempt, Backoff(judge.retries, 0.5, 8.0))
    except HttpFailure as failure:
        reason = f"status {failure.status}" if failure.status else failure.why
        raise JudgeError(f"The judge at {judge.url} did not answer ({reason}).", "See its log.") from failure
    return answer


async def _complete(judge: JudgeEndpoint, client: Any, role: str, shown: str) -> str:
    base = judge.url.rstrip("/")
    model = judge.model or _read(await send(client, "GET", f"{base}/models", judge.timeout_s), "data", 0, "id")
    request = {
        "model": model,
        "messages": [{"role": "system", "content": role}, {"role": "user", "content": shown}],
        "temperature": judge.temperature,
        "max_tokens": judge.max_tokens,
    }
    answer = await send(client, "POST", f"{base}/chat/completions", judge.timeout_s, json=request)
    return str(_read(answer, "choices", 0, "message", "content") or "")


def _read(answer: HttpAnswer, *path: str | int) -> Any:
    """The value at a path of the answer's JSON. Raises HttpFailure."""
    if answer.status >= 300:
        raise HttpFailure.of(answer)
    try:
        value: Any = json.loads(answer.body)
        for key in path:
            value = value[key]
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise HttpFailure(f"{type(error).__name__} in its answer") from error
    return value
