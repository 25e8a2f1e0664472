"""Tools of servers of the Model Context Protocol."""

from .server import McpServer
from .session import McpServerError, mcp_schemas, mcp_session

__all__ = ["McpServer", "McpServerError", "mcp_schemas", "mcp_session"]
