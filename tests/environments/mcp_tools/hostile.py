"""A hostile MCP server on standard input and output: `python hostile.py HOW`. It speaks the protocol by hand, to break it."""

import json
import sys
import time
from typing import Any

how = sys.argv[1]
GOOD = {"name": "fine", "inputSchema": {"type": "object"}}
TOOLS: dict[str, list[dict[str, Any]]] = {
    "many": [GOOD | {"name": f"tool_{n}"} for n in range(3000)],
    "twice": [GOOD, GOOD],
    "name": [GOOD | {"name": "no spaces please"}],
    "type": [GOOD | {"inputSchema": {"type": "object", "properties": {"a": {"type": "nonsense"}}}}],
    "array": [GOOD | {"inputSchema": {"type": "array"}}],
    "large": [GOOD | {"inputSchema": {"type": "object", "description": "x" * 100_000}}],
}


def answer(request: dict[str, Any], result: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


for line in sys.stdin:
    request = json.loads(line)
    method = request.get("method")
    if how == "flood":
        while True:
            sys.stdout.write("x" * 65536)
    if how == "noise":
        print("this is no message", flush=True)
    if method == "initialize":
        version = request["params"]["protocolVersion"]
        answer(
            request,
            {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "h", "version": "1"}},
        )
    elif method == "tools/list" and how == "endless":
        answer(request, {"tools": [GOOD | {"name": f"tool_{time.monotonic_ns()}"}], "nextCursor": "more"})
    elif method == "tools/list" and how == "silent":
        pass
    elif method == "tools/list":
        answer(request, {"tools": TOOLS.get(how, [GOOD])})
    elif "id" in request:
        print(
            json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "unknown"}}),
            flush=True,
        )
