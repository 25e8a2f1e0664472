"""The process behind `guard`: calls named functions with JSON arguments, one a line, and answers in JSON.

    {"function": "package.module:name", "args": […]}  →  {"value": …} | {"error": "ValueError: …"}

It is started by path, before any package of ours is imported; what is to be imported, and from where, comes as the first line.
"""

import importlib
import json
import os
import resource
import select
import sys
import threading
from typing import Any

REPLY_BYTES = 1 << 20
FILE_BYTES = 1 << 20


def main() -> None:
    """Serves requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a function prints must not land between replies
    threading.Thread(target=end_with_parent, daemon=True).start()
    start: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path[:] = start["path"]
    try:
        for module in start["modules"]:
            importlib.import_module(module)
    except Exception as error:
        print(json.dumps({"error": described(error)}), file=replies)
        return
    limit_resources(start["memory_bytes"])
    print(json.dumps({"value": "ready"}), file=replies)
    for line in sys.stdin:
        limit_cpu(start["limit_s"])
        print(answer(json.loads(line)), file=replies)


def end_with_parent() -> None:
    """Ends this process when nobody holds the other end of stdin any more, even while a function runs."""
    poller = select.poll()
    poller.register(0, 0)  # a hang-up is always reported
    poller.poll()
    os._exit(1)


def limit_resources(memory_bytes: int) -> None:
    """Bounds memory and file size, and leaves no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(seconds: float) -> None:
    """The kernel ends this process when one call uses more: the parent may be gone, and one instruction of ours may take for ever."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft, hard = int(used.ru_utime + used.ru_stime + seconds) + 2, resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def answer(request: dict[str, Any]) -> str:
    """The reply to one request, as one line."""
    try:
        module, _, name = request["function"].partition(":")
        value = getattr(importlib.import_module(module), name)(*request["args"])
        reply = json.dumps({"value": value})
    except MemoryError:
        # What is left of this process is not to be trusted with the next call.
        os._exit(1)
    except Exception as error:
        return json.dumps({"error": described(error)})
    return (
        reply if len(reply) <= REPLY_BYTES else json.dumps({"error": f"OverflowError: a reply of {len(reply)} bytes"})
    )


def described(error: Exception) -> str:
    """The error in one short line; an error whose text cannot be made still has a name."""
    try:
        said = " ".join(str(error).split())[:500]
    except Exception:
        said = ""
    return f"{type(error).__name__}: {said}"


if __name__ == "__main__":
    main()
