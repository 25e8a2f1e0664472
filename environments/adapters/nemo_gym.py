"""A running NeMo Gym resources server as an environment: `/seed_session`, one route per tool, `/verify`.

Policy and agent loop run here; the server holds the state and the verifier. A session keeps the cookies of `/seed_session`.
"""

import asyncio
import json
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...base.errors import ConfigError, RollhouseError, one_line
from ...base.http import BUSY, Backoff, HttpFailure, send, with_retries
from ...base.packages import need
from ...base.secrets import refuse_in_url
from ...interop.nemo_gym_rows import components
from ...interop.responses import output_items
from ...store.task import Score, Task
from ..tasks_file import load_tasks, row_from_task
from ..tools import ToolOutput, ToolSession

_OWN_ROUTES = {"", ".", "..", "seed_session", "verify", "aggregate_metrics"}
_NOT_FOUND = ToolOutput('{"detail":"Not Found"}', failed=True)
_FIELDS = "verifier_fields"
_NO_TRUTH = {"responses_create_params", "agent_ref", "id", "split", "skills_ref"}


class ServerError(RollhouseError):
    """A resources server does not answer, or its answer is not valid."""


@dataclass
class _Connections:
    """The connections of one event loop, and the number of sessions that use them."""

    connector: Any
    sessions: int = 0


class NemoGymEnvironment:
    """Tasks from a dataset file, sessions on the server.

    Attributes:
        name: The argument; else the agent of all rows; else `nemo-gym`.
        url, retries, connections: The arguments.
    """

    def __init__(
        self,
        url: str,
        tasks: str | Path | None = None,
        tasks_split: str = "train",
        name: str | None = None,
        pass_at: float = 1.0,
        retries: int = 4,
        connections: int = 256,
    ) -> None:
        """Reads the tasks; the first request to the server is that of the first session.

        Args:
            tasks: A dataset file, needed only to list tasks.
            tasks_split: Split of rows without one.
            pass_at: The least reward of a rollout that passes.
            retries: The most times a request is sent again after a lost connection or a busy server, with growing pauses.
            connections: The most open connections.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is not the URL of a server.", "Write nemo-gym:http://127.0.0.1:PORT.")
        refuse_in_url(url, "The server's URL")
        need("aiohttp")
        rows = load_tasks(tasks, "", tasks_split) if tasks is not None else []
        agents = {_agent(task) for task in rows}
        self.name = name or (agents.pop() if len(agents) == 1 else None) or "nemo-gym"
        self._tasks = [replace(task, environment=self.name, ground_truth=_truth(task)) for task in rows]
        self.url = url.rstrip("/")
        self._pass_at = pass_at
        self.retries = retries
        self.connections = connections
        self._shared: dict[asyncio.AbstractEventLoop, _Connections] = {}
        self._sharing = threading.Lock()

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of the file that are of the split, in its order."""
        if not self._tasks:
            raise ConfigError(f"{self.name} has no tasks file.", "Name one with --tasks FILE.")
        return [task for task in self._tasks if task.split == split]

    async def start(self, task: Task) -> ToolSession:
        """Seeds a session on the server. Raises ServerError."""
        link = _Link(self, _row(task))
        try:
            await link.request("seed_session")
        except BaseException:
            await link.close()
            raise
        session = ToolSession(link.call, lambda calls: link.verdict(session), free=link.close)
        return session

    def connector(self) -> Any:
        """The connections shared by sessions of the running event loop; training and validation have a loop each and run at once."""
        import aiohttp

        loop = asyncio.get_running_loop()
        with self._sharing:
            if loop not in self._shared:
                self._shared[loop] = _Connections(aiohttp.TCPConnector(limit=self.connections, keepalive_timeout=2))
            self._shared[loop].sessions += 1
            return self._shared[loop].connector

    async def give_back(self) -> None:
        """Counts one session of the running event loop less; the last one closes its connections."""
        loop = asyncio.get_running_loop()
        with self._sharing:
            self._shared[loop].sessions -= 1
            last = None if self._shared[loop].sessions else self._shared.pop(loop).connector
        if last is not None:
            await last.close()

    def score(self, answer: Any, request: dict[str, Any]) -> Score:
        """The server's verdict: its reward, and each other number that it adds to the request as a component. Raises ServerError."""
        reward = answer.get("reward") if isinstance(answer, dict) else None
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
            raise ServerError(f"/verify of {self.url} returned no reward: {one_line(json.dumps(answer))}.", "See its log.")  # fmt: skip
        added = {name: value for name, value in answer.items() if name not in request}
        parts = tuple(
            (part["name"], float(part["value"]), 0.0 if part["weight"] is None else float(part["weight"]))
            for part in components(added)
            if part["value"] is not None
        )
        return Score(float(reward), reward >= self._pass_at, f"nemo-gym/{self.name}", "1", parts)


class _Link:
    """Requests of one session, over connections that all sessions share.

    Attributes:
        row: The task in the server's form.
    """

    def __init__(self, environment: NemoGymEnvironment, row: dict[str, Any]) -> None:
        import aiohttp

        self.row = row
        self._environment = environment
        self._http = aiohttp.ClientSession(
            connector=environment.connector(),
            connector_owner=False,
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # also for a server named by its IP address
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        )

    async def call(self, name: str, arguments: Any) -> ToolOutput:
        """A tool's result: the body of the response, also of a refusal. Raises ServerError when the server fails."""
        if name in _OWN_ROUTES:
            return _NOT_FOUND
        # A JSON null is sent as upstream's agent sends it: without a body.
        status, text = await self._post(quote(name, safe=""), arguments, again_after_loss=False)
        return ToolOutput(text, failed=status >= 400 or text.startswith('{"output":"Error executing tool '))

    async def request(self, address: str) -> Any:
        """The response of `/seed_session` or `/verify` to the row. Raises ServerError also for a refusal."""
        status, text = await self._post(address, self.row, again_after_loss=True)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status >= 400 or answer is None:
            raise ServerError(f"/{address} of the resources server returned {status}: {one_line(text, 200)}.", "See its log.")  # fmt: skip
        return answer

    async def verdict(self, session: ToolSession) -> Score:
        """The server's verdict on the session."""
        self.row = {**self.row, "response": _response(session, self.row)}
        return self._environment.score(await self.request("verify"), self.row)

    async def close(self) -> None:
        """Ends the session here; the server is not notified."""
        await self._http.close()
        await self._environment.give_back()

    async def _post(self, address: str, body: Any, again_after_loss: bool) -> tuple[int, str]:
        """Status and body. A request is repeated when the server is busy, and after a lost connection if repeating it is harmless."""
        from yarl import URL

        url = URL(f"{self._environment.url}/{address}", encoded=True)

        async def attempt(_: int) -> tuple[int, str]:
            try:
                answer = await send(self._http, "POST", url, json=body)
            except HttpFailure as failure:
                failure.again = again_after_loss or not failure.sent
                raise
            if answer.status < 500 and answer.status != 429:
                return answer.status, answer.body.decode("utf-8", "replace")
            failure = HttpFailure.of(answer)
            failure.again = answer.status in BUSY
            raise failure

        try:
            found, _ = await with_retries(attempt, Backoff(self._environment.retries, 0.25, 8.0))
        except HttpFailure as failure:
            if failure.status is None:
                raise ServerError(f"Cannot reach {url}: {failure.why}.", "Check that the resources server runs.") from failure  # fmt: skip
            raise ServerError(f"{url} returned {failure.why}.", "See the log of the resources server.") from failure
        return found


def _agent(task: Task) -> str | None:
    """The agent of the row."""
    given = task.extra.get("agent_ref")
    name = given.get("name") if isinstance(given, dict) else given
    return name if isinstance(name, str) else None


def _truth(task: Task) -> Any:
    """The row's ground truth, or the fields in which its verifier keeps it: tasks with one prompt and different answers are different tasks."""
    own = {key: value for key, value in task.extra.items() if key not in _NO_TRUTH and not key.startswith("_ng_")}
    return {_FIELDS: own} if task.ground_truth is None and own else task.ground_truth


def _row(task: Task) -> dict[str, Any]:
    row = row_from_task(task)
    if row["ground_truth"] is None or (
        isinstance(row["ground_truth"], dict) and row["ground_truth"].keys() == {_FIELDS}
    ):
        del row["ground_truth"]
    return row


def _response(session: ToolSession, row: dict[str, Any]) -> dict[str, Any]:
    """The policy's turns as a Responses object."""
    params = row["responses_create_params"]
    return {
        "id": "resp_rollhouse",
        "object": "response",
        "created_at": 0.0,
        "model": params.get("model") or "policy",
        "output": output_items(session.messages),
        "parallel_tool_calls": params.get("parallel_tool_calls") or False,
        "tool_choice": params.get("tool_choice") or "auto",
        "tools": params["tools"],
        "status": "incomplete" if session.cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if session.cut else None,
    }
