"""A running NeMo Gym resources server as an environment: `/seed_session`, one address a tool, `/verify`.

The policy is ours and so is the agent loop; the server holds the state and the verifier. A session keeps the cookies that `/seed_session` gave it.
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
from ...interop.nemo_gym_rows import components
from ...interop.responses import output_items
from ...policies.models import need
from ...store.task import Score, Task
from ..tasks_file import load_tasks, row_from_task
from ..tools import ToolOutput, ToolSession

_OWN_ADDRESSES = {"", ".", "..", "seed_session", "verify", "aggregate_metrics"}
_BUSY = (429, 503)  # the request was not worked on
_NOT_FOUND = ToolOutput('{"detail":"Not Found"}', failed=True)
_FIELDS = "verifier_fields"
_NO_TRUTH = {"responses_create_params", "agent_ref", "id", "split", "skills_ref"}


class ServerError(RollhouseError):
    """A resources server does not answer, or answers what it should not."""


@dataclass
class _Connections:
    """Of one event loop, and how many sessions use them."""

    connector: Any
    sessions: int = 0


class NemoGymEnvironment:
    """Tasks from a dataset file, sessions on the server.

    Attributes:
        name: As given; else the agent that all rows name; else `nemo-gym`.
        url, retries, connections: As given.
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
        """Reads the tasks; the server is first asked when a session starts.

        Args:
            tasks: A dataset file, needed only to list tasks.
            tasks_split: The split of its rows that name none.
            pass_at: The reward from which on a rollout has passed.
            retries: Further attempts after a lost connection or a busy server, with growing pauses.
            connections: Open at once.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is not the address of a server.", "Write nemo-gym:http://127.0.0.1:PORT.")
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
            await link.ask("seed_session")
        except BaseException:
            await link.close()
            raise
        session = ToolSession(link.call, lambda calls: link.verdict(session), free=link.close)
        return session

    def connector(self) -> Any:
        """The connections that open sessions of the running event loop share; training and validation each have a loop, and play at once."""
        import aiohttp

        loop = asyncio.get_running_loop()
        with self._sharing:
            if loop not in self._shared:
                self._shared[loop] = _Connections(aiohttp.TCPConnector(limit=self.connections, keepalive_timeout=2))
            self._shared[loop].sessions += 1
            return self._shared[loop].connector

    async def give_back(self) -> None:
        """One session of the running event loop fewer; the last one closes its connections."""
        loop = asyncio.get_running_loop()
        with self._sharing:
            self._shared[loop].sessions -= 1
            last = None if self._shared[loop].sessions else self._shared.pop(loop).connector
        if last is not None:
            await last.close()

    def score(self, answer: Any, asked: dict[str, Any]) -> Score:
        """The server's verdict: its reward, and every other number it adds to what it was asked as a component. Raises ServerError."""
        reward = answer.get("reward") if isinstance(answer, dict) else None
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
            raise ServerError(f"/verify of {self.url} gave no reward: {one_line(json.dumps(answer))}.", "Look at its log.")  # fmt: skip
        added = {name: value for name, value in answer.items() if name not in asked}
        parts = tuple(
            (part["name"], float(part["value"]), 0.0 if part["weight"] is None else float(part["weight"]))
            for part in components(added)
            if part["value"] is not None
        )
        return Score(float(reward), reward >= self._pass_at, f"nemo-gym/{self.name}", "1", parts)


class _Link:
    """What one session says to the server, over connections that all sessions share.

    Attributes:
        row: The task as the server knows it.
    """

    def __init__(self, environment: NemoGymEnvironment, row: dict[str, Any]) -> None:
        import aiohttp

        self.row = row
        self._environment = environment
        self._http = aiohttp.ClientSession(
            connector=environment.connector(),
            connector_owner=False,
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # also of a server that is named by its number
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        )

    async def call(self, name: str, arguments: Any) -> ToolOutput:
        """A tool's answer: the body as it comes, also of a refusal. Raises ServerError when the server fails."""
        if name in _OWN_ADDRESSES:
            return _NOT_FOUND
        # A JSON null is sent as upstream's agent sends it: without a body.
        status, text = await self._post(quote(name, safe=""), arguments, again_after_loss=False)
        return ToolOutput(text, failed=status >= 400 or text.startswith('{"output":"Error executing tool '))

    async def ask(self, address: str) -> Any:
        """What `/seed_session` or `/verify` answers to the row. Raises ServerError also for a refusal."""
        status, text = await self._post(address, self.row, again_after_loss=True)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status >= 400 or answer is None:
            raise ServerError(f"/{address} of the resources server answered {status}: {one_line(text, 200)}.", "Look at its log.")  # fmt: skip
        return answer

    async def verdict(self, session: ToolSession) -> Score:
        """The server's verdict on what the session did."""
        self.row = {**self.row, "response": _response(session, self.row)}
        return self._environment.score(await self.ask("verify"), self.row)

    async def close(self) -> None:
        """Ends the session here; the server keeps what it keeps."""
        await self._http.close()
        await self._environment.give_back()

    async def _post(self, address: str, body: Any, again_after_loss: bool) -> tuple[int, str]:
        """Status and body. A busy server is asked again, and one that was lost where asking twice is the same as asking once."""
        import aiohttp
        from yarl import URL

        environment = self._environment
        url = URL(f"{environment.url}/{address}", encoded=True)
        for attempt in range(environment.retries + 1):
            last = attempt == environment.retries
            try:
                async with self._http.post(url, json=body) as response:
                    text = await response.text(errors="replace")
                    if response.status < 500 and response.status != 429:
                        return response.status, text
                    if last or response.status not in _BUSY:
                        raise ServerError(f"{url} answered {response.status}: {one_line(text, 200)}.", "Look at the log of the resources server.")  # fmt: skip
            except aiohttp.ClientError as error:
                if last or not (again_after_loss or isinstance(error, aiohttp.ClientConnectorError)):
                    raise ServerError(f"{url} cannot be reached: {one_line(error, 200)}.", "Is the resources server running?") from error  # fmt: skip
            await asyncio.sleep(min(0.25 * 2**attempt, 8.0))
        raise AssertionError("unreachable")


def _agent(task: Task) -> str | None:
    """The agent that the row names."""
    given = task.extra.get("agent_ref")
    name = given.get("name") if isinstance(given, dict) else given
    return name if isinstance(name, str) else None


def _truth(task: Task) -> Any:
    """The row's truth; where a verifier keeps it in fields of its own, those: tasks of one prompt and other answers are other tasks."""
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
    """What the policy did, as a Responses object."""
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
