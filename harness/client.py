"""What a harness gets of its rollout: the address of the run's engine, ready clients of it, and the environment's tools."""

import asyncio
import contextlib
import http.client
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..base.errors import EngineError
from ..base.packages import need


@dataclass(frozen=True)
class Access:
    """Where a rollout's model and tools are, as JSON values.

    Attributes:
        url: `http://HOST:PORT/rollouts/ID`.
        model: The name of the model for clients.
        tools: The task's tool schemas in OpenAI chat form.
        agent: The agent of the episode; only the calls of `main` are trained on.
    """

    url: str
    api_key: str
    model: str
    tools: Sequence[Mapping[str, Any]] = ()
    agent: str = "main"


@dataclass(frozen=True)
class HarnessTool:
    """A tool of the environment.

    Attributes:
        parameters: JSON schema of its arguments.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    client: "HarnessClient"

    async def call(self, arguments: str | Mapping[str, Any]) -> str:
        """The result for the model, errors of the tool included. `arguments` are a mapping, or JSON text as the model wrote it."""
        return await asyncio.to_thread(self.call_sync, arguments)

    def call_sync(self, arguments: str | Mapping[str, Any]) -> str:
        """As `call`, for code without an event loop."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return self.client.post(f"/tools/{urllib.parse.quote(self.name, safe='')}", {"arguments": text})["text"]


class HarnessClient:
    """The run's engine for one rollout. Every call that it answers is recorded, with the tokens that were sampled.

    The run decides how is sampled (temperature, seed, token limits), whatever a request asks for.

    Attributes:
        base_url: Of the OpenAI-compatible API, as the `openai` package takes it (`…/v1`).
        anthropic_url: Of the Anthropic-compatible API, as the `anthropic` package takes it (without `/v1`).
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        path = "" if access.agent == "main" else f"/agents/{urllib.parse.quote(access.agent, safe='')}"
        self.anthropic_url = f"{access.url}{path}"
        self.base_url = f"{self.anthropic_url}/v1"
        self.api_key, self.model = access.api_key, access.model
        self._opened: list[Any] = []

    @cached_property
    def openai(self) -> Any:
        """An `openai.AsyncOpenAI` without retries and time limit, which is the run's. Needs the package openai."""
        openai = need("openai")
        # Reading certificates, which a client of this machine does not need, takes longer than a short call.
        http = openai.DefaultAsyncHttpxClient(verify=False, timeout=None)
        return self._kept(openai.AsyncOpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=None, http_client=http))  # fmt: skip

    @cached_property
    def anthropic(self) -> Any:
        """An `anthropic.AsyncAnthropic` without retries and time limit, which is the run's. Needs the package anthropic."""
        anthropic = need("anthropic")
        http = anthropic.DefaultAsyncHttpxClient(verify=False, timeout=None)
        return self._kept(anthropic.AsyncAnthropic(base_url=self.anthropic_url, api_key=self.api_key, max_retries=0, timeout=None, http_client=http))  # fmt: skip

    @cached_property
    def tools(self) -> list[HarnessTool]:
        """The tools of the task, executed in the environment's session; the environment's verdict is on what they did."""
        functions = [tool["function"] for tool in self.access.tools]
        return [HarnessTool(one["name"], one.get("description") or "", one.get("parameters") or {"type": "object"}, self) for one in functions]  # fmt: skip

    def agent(self, name: str) -> "HarnessClient":
        """A client for another agent of the episode, whose calls are rows of their own and not trained on."""
        return self._kept(HarnessClient(replace(self.access, agent=name)))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Posts JSON to a route of the rollout and returns the answer. Raises EngineError for an answer that is an error."""
        place = urllib.parse.urlsplit(self.anthropic_url if path.startswith("/v1/") else self.access.url)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"}
        with contextlib.closing(http.client.HTTPConnection(place.hostname or "", place.port)) as connection:
            connection.request("POST", f"{place.path}{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            found = json.loads(answer.read())
        if answer.status >= 400:
            raise EngineError(f"{path} was refused: {found['error']['message']}", "See docs/train-your-agent.md.")
        return found

    async def aclose(self) -> None:
        """Closes the clients that were made."""
        for client in self._opened:
            with contextlib.suppress(Exception):
                await (client.aclose() if isinstance(client, HarnessClient) else client.close())
        self._opened.clear()

    def _kept(self, client: Any) -> Any:
        self._opened.append(client)
        return client


def variables_of(client: HarnessClient) -> dict[str, str]:
    """Environment variables by which programs find the rollout's model."""
    local = "127.0.0.1,localhost"
    return {
        "OPENAI_BASE_URL": client.base_url,
        "OPENAI_API_BASE": client.base_url,
        "OPENAI_API_KEY": client.api_key,
        "ANTHROPIC_BASE_URL": client.anthropic_url,
        "ANTHROPIC_API_KEY": client.api_key,
        "ROLLHOUSE_MODEL": client.model,
        "ROLLHOUSE_URL": client.access.url,
        "NO_PROXY": local,
        "no_proxy": local,
        # What a framework reports to its maker's servers by itself is of no use here.
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "ANONYMIZED_TELEMETRY": "false",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
