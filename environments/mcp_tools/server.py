"""A server of the Model Context Protocol: how it is reached, what is taken from it, and connections whose messages have a bounded size."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ...base.errors import ConfigError, MissingExtra
from ...base.packages import install_command
from ...base.secrets import refuse_in_url

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "SHELL", "TERM")
_END_S = 2.0


@dataclass(frozen=True)
class McpServer:
    """A server, one session of which serves one episode.

    Attributes:
        command: Starts a server that speaks on its standard input and output; one process for each session.
        url: Of a server that speaks Streamable HTTP. Either this or `command`.
        environment: Variables of the command, besides PATH, HOME and their like; nothing else of this process is passed on.
        cwd: Working directory of the command.
        headers: Of each request to the URL. Values that begin with `$` name environment variables.
        tools: Names of the tools to take, in this order; empty takes all.
        max_tools: More tools than this are an error.
        max_message_bytes: A longer message of the server ends the session.
        max_answer_characters: Of a tool's answer, which the policy sees.
        start_s: Seconds until the session is open and the tools are listed.
        call_s: Seconds of one call, where the run has no lower limit.
    """

    command: Sequence[str] = ()
    url: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[str] = ()
    max_tools: int = 128
    max_message_bytes: int = 4 << 20
    max_answer_characters: int = 32_000
    start_s: float = 60.0
    call_s: float = 60.0

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ConfigError("An MCP server has a command or a URL.", "Give one of them.")
        if isinstance(self.command, str):
            raise ConfigError(f"The command of an MCP server is {self.command!r}, not a list.", "Write it as a list of words.")  # fmt: skip
        if self.url is not None:
            if not self.url.startswith(("http://", "https://")):
                raise ConfigError(f"The URL of an MCP server is {self.url!r}.", "Write it as http://127.0.0.1:8000/mcp.")  # fmt: skip
            refuse_in_url(self.url, "The URL of an MCP server")

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.url or str(self.command[0])


def require_mcp() -> None:
    """Raises MissingExtra when the package is not installed, or is an older one."""
    try:
        from mcp import Client  # noqa: F401
    except ImportError:
        raise MissingExtra("The package mcp (2.0 or later) is not installed.", f"Run `{install_command('mcp')}`.") from None  # fmt: skip


@asynccontextmanager
async def connected(server: McpServer) -> AsyncIterator[Any]:
    """A client of one session. Whatever it raises means that the session has ended."""
    from mcp import Client

    transport = _over_http(server) if server.url else _over_pipes(server)
    async with Client(transport, read_timeout_seconds=max(server.start_s, server.call_s), cache=None) as client:
        yield client


@asynccontextmanager
async def _over_pipes(server: McpServer) -> AsyncIterator[Any]:
    """Streams to a process of the command, which is killed with all of its process group."""
    import anyio
    from mcp import types
    from mcp.shared.message import SessionMessage

    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(server.environment)
    process = await asyncio.create_subprocess_exec(
        *server.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env=environment, cwd=server.cwd, start_new_session=True, limit=server.max_message_bytes,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    into, incoming = anyio.create_memory_object_stream[Any](0)
    outgoing, out_of = anyio.create_memory_object_stream[Any](0)
    stdin, stdout = process.stdin, process.stdout

    async def read() -> None:
        async with into:
            with suppress(ValueError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                # A line longer than the limit is a ValueError: the session ends.
                while line := await stdout.readline():
                    with suppress(ValueError):  # a line that is no message is not answered
                        await into.send(
                            SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
                        )

    async def write() -> None:
        async with out_of:
            with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for sent in out_of:
                    stdin.write(sent.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                    await stdin.drain()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(write)
            try:
                yield incoming, outgoing
            finally:
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
            for stream in (into, incoming, outgoing, out_of):
                stream.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Closes the input, waits a moment, and kills what is left of the process group."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    with suppress(TimeoutError, ValueError, OSError):
        async with asyncio.timeout(_END_S):
            while await process.stdout.read(1 << 16):  # a server that still writes cannot end
                pass
            await process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # asyncio waits for the pipes too, which a process outside the group may hold.
    process._transport.close()  # type: ignore[attr-defined]
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _END_S)


@asynccontextmanager
async def _over_http(server: McpServer) -> AsyncIterator[Any]:
    """Streams over HTTP, each answer of at most `max_message_bytes`."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > server.max_message_bytes:
                    raise httpx2.ReadError(f"an answer has more than {server.max_message_bytes} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    class BoundedTransport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            answer = await super().handle_async_request(request)
            answer.stream = Bounded(answer.stream)
            return answer

    headers = {name: _header(value) for name, value in server.headers.items()} | {"Accept-Encoding": "identity"}
    limit = httpx2.Timeout(min(30.0, server.start_s), read=max(server.start_s, server.call_s))
    async with AsyncExitStack() as opened:
        client = await opened.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=limit, transport=BoundedTransport()))  # fmt: skip
        assert server.url is not None
        size = server.max_message_bytes
        streams = streamable_http_client(server.url, http_client=client, max_sse_event_size=size)
        yield await opened.enter_async_context(streams)


def _header(value: str) -> str:
    if not value.startswith("$"):
        return value
    if value[1:] not in os.environ:
        raise ConfigError(f"The environment variable {value[1:]} of an MCP server's header is not set.", "Set it.")
    return os.environ[value[1:]]
