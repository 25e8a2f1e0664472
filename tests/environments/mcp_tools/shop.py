"""A real MCP server for the tests: `python shop.py stdio`, or `python shop.py http`, which prints the port it listens on."""

import asyncio
import os
import socket
import sys

import uvicorn
from mcp.server.mcpserver import MCPServer

server = MCPServer("shop")
sold: list[str] = []


@server.tool()
def sell(item: str) -> str:
    """Sell an item.

    Args:
        item: Its name.
    """
    sold.append(item)
    return f"sold {', '.join(sold)}"


@server.tool()
def receipt(lines: int) -> str:
    """A receipt of so many lines."""
    return "line\n" * lines


@server.tool()
async def wait() -> str:
    """Never answers."""
    await asyncio.sleep(1000)
    return ""


@server.tool()
def refuse() -> str:
    """Always fails."""
    raise ValueError("closed today")


@server.tool()
def burn_down() -> str:
    """Ends the server."""
    os._exit(3)


if sys.argv[1] == "stdio":
    server.run("stdio")
else:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        settings = uvicorn.Config(server.streamable_http_app(), log_level="critical")
        uvicorn.Server(settings).run(sockets=[listening])
