"""Sessions over the tools of an MCP server: one connection for each episode."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

from ...base.errors import ConfigError, RollhouseError, one_line
from ...base.event_loop import run_blocking
from ...base.threads import in_loop
from ...store.task import Score
from ..tools import ToolOutput, ToolSession, User, Verify, run_user_code
from .server import McpServer, connected, require_mcp

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SCHEMA_BYTES = 32_768
_DESCRIPTION_CHARACTERS = 4096
_PAGES = 100
_CLOSE_S = 8.0


class McpServerError(RollhouseError):
    """The session with an MCP server could not be opened, or has ended. It is no fault of the policy."""


def mcp_schemas(server: McpServer) -> tuple[dict[str, Any], ...]:
    """The schemas of the server's tools in OpenAI chat form, for `Task.tools`.

    Raises MissingExtra, McpServerError when the server cannot be reached, ConfigError for too many tools, an unknown one among `server.tools`, and a
    name or a schema that is not valid.
    """

    async def read() -> tuple[dict[str, Any], ...]:
        connection = McpConnection(server)
        try:
            return await connection.open()
        finally:
            await connection.close()

    require_mcp()
    return run_blocking(in_loop(read()))


async def mcp_session(server: McpServer, verify: Verify, *, user: User | None = None) -> ToolSession:
    """A session whose calls the server answers, over a connection of its own. Arguments as of `tool_session`.

    A server that refuses a call, or takes longer than `call_s`, is a tool error; one that ends the connection fails the rollout.
    """
    require_mcp()
    connection = McpConnection(server)
    await in_loop(connection.open())

    async def execute(name: str, arguments: Any) -> ToolOutput:
        return await in_loop(connection.call(name, arguments))

    async def score(_: Any) -> Score:
        return await run_user_code(verify, session)

    async def reply() -> str | None:
        assert user is not None
        return await run_user_code(user, session)

    async def free() -> None:
        await in_loop(connection.close())

    session = ToolSession(execute, score, reply if user is not None else None, free)
    return session


class McpConnection:
    """One session with a server. All methods are called on the second loop, where a task of its own holds the connection."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self._client: Any = None
        self._names: set[str] = set()
        self._over = asyncio.Event()
        self._ended = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None

    async def open(self) -> tuple[dict[str, Any], ...]:
        """Connects, and returns the schemas of the tools. Raises as `mcp_schemas`."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holder = asyncio.create_task(self._hold(opened))
        try:
            async with asyncio.timeout(self.server.start_s):
                await asyncio.shield(opened)
                tools = await self._listed()
        except TimeoutError:
            await self.close()
            raise self._error(f"did not open a session within {self.server.start_s:g} s") from None
        except ConfigError:
            await self.close()
            raise
        except Exception as error:
            await self.close()
            raise self._error(f"could not be reached: {_cause(error)}") from error
        except asyncio.CancelledError:
            self._holder.cancel()
            raise
        schemas = _schemas(self.server, tools)
        self._names = {schema["function"]["name"] for schema in schemas}
        return schemas

    async def call(self, name: str, arguments: Any) -> ToolOutput:
        """The answer of one tool. Raises McpServerError when the session has ended."""
        if name not in self._names:
            return ToolOutput(f"Error: there is no tool {name!r}; there are {', '.join(sorted(self._names))}", failed=True)  # fmt: skip
        if not isinstance(arguments, dict):
            return ToolOutput(f"Error: the arguments of {name} are not an object", failed=True)
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        request = asyncio.ensure_future(self._client.call_tool(name, arguments))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((request, ended), timeout=self.server.call_s, return_when=asyncio.FIRST_COMPLETED)
            if request.done():
                return _output(request.result(), self.server.max_answer_characters)
            if ended.done():
                raise self._error("ended the session")
            return ToolOutput(f"Error: {name} took longer than {self.server.call_s:g} s", failed=True)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED and "closed" in error.message.lower():  # servers use the code too
                raise self._error(f"ended the session: {_cause(error)}") from error
            return ToolOutput(f"Error: {one_line(error, 1000)}", failed=True)
        except RollhouseError:
            raise
        except Exception as error:
            raise self._error(f"broke the session: {_cause(error)}") from error
        finally:
            for waiting in (request, ended):
                waiting.cancel()
            await asyncio.gather(request, ended, return_exceptions=True)

    async def close(self) -> None:
        """Ends the connection and, where it has one, the server's process."""
        self._over.set()
        if self._holder is None:
            return
        if self._client is None:
            self._holder.cancel()
        await asyncio.wait([self._holder], timeout=_CLOSE_S)
        self._holder.cancel()  # one that could not close

    async def _hold(self, opened: "asyncio.Future[None]") -> None:
        """Holds the connection: what opens it must close it in the same task."""
        try:
            async with connected(self.server) as client:
                self._client = client
                if not opened.done():
                    opened.set_result(None)
                await self._over.wait()
        except BaseException as error:
            if not opened.done():
                opened.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
                opened.exception()  # open may be gone
        finally:
            self._ended.set()

    async def _listed(self) -> list[Any]:
        found: list[Any] = []
        cursor = None
        for _ in range(_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return found
        raise ConfigError(f"The MCP server {self.server.label} lists its tools on more than {_PAGES} pages.", "Correct the server.")  # fmt: skip

    def _error(self, what: str) -> McpServerError:
        return McpServerError(f"The MCP server {self.server.label} {what}.", "See the server's own output; start it by hand to try it.")  # fmt: skip


def _schemas(server: McpServer, tools: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    by_name: dict[str, Any] = {}
    for tool in tools:
        if tool.name in by_name:
            raise ConfigError(f"The MCP server {server.label} has two tools {tool.name!r}.", "Correct the server.")
        by_name[tool.name] = tool
    missing = [name for name in server.tools if name not in by_name]
    if missing:
        raise ConfigError(f"The MCP server {server.label} has no tool {missing[0]!r}.", f"It has {one_line(', '.join(by_name), 300)}.")  # fmt: skip
    chosen = [by_name[name] for name in server.tools] or list(by_name.values())
    if len(chosen) > server.max_tools:
        raise ConfigError(
            f"The MCP server {server.label} has more than {server.max_tools} tools.",
            "Name the tools to take in `tools`, or raise max_tools.",
        )
    return tuple(_schema(server, tool) for tool in chosen)


def _schema(server: McpServer, tool: Any) -> dict[str, Any]:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    where = f"Tool {one_line(repr(tool.name), 80)} of the MCP server {server.label}"
    if not _NAME.fullmatch(tool.name):
        raise ConfigError(
            f"{where} has a name that models cannot call.", "Names are 1 to 64 of A-Z, a-z, 0-9, _ and -."
        )
    parameters = {key: value for key, value in tool.input_schema.items() if key != "$schema"}
    if len(json.dumps(parameters)) > _SCHEMA_BYTES:
        raise ConfigError(f"{where} has a schema of more than {_SCHEMA_BYTES} bytes.", "Leave it out with `tools`.")
    try:
        Draft202012Validator.check_schema(parameters)
    except (SchemaError, RecursionError) as error:
        raise ConfigError(f"{where} has a schema that is not valid: {one_line(getattr(error, 'message', error), 200)}.", "Leave it out with `tools`.") from None  # fmt: skip
    if parameters.get("type") != "object":
        raise ConfigError(f"{where} has a schema that is not of an object.", "Leave it out with `tools`.")
    parameters.setdefault("properties", {})
    description = (tool.description or "")[:_DESCRIPTION_CHARACTERS]
    return {"type": "function", "function": {"name": tool.name, "description": description, "parameters": parameters}}


def _output(result: Any, limit: int) -> ToolOutput:
    """The answer as text: its texts, else its structured content; what is no text is named."""
    parts = [part.text if part.type == "text" else f"[{part.type} left out]" for part in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = "\n".join(parts).encode("utf-8", "replace").decode()
    if len(text) > limit:
        text = f"{text[:limit]}\n[{len(text) - limit} further characters are not shown]"
    return ToolOutput(f"Error: {text}" if result.is_error else text, failed=bool(result.is_error))


def _cause(error: BaseException) -> str:
    """The first error inside groups of them, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return one_line(str(error) or type(error).__name__, 200)
