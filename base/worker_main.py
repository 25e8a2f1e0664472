"""The child of `worker_process`: calls named functions with JSON arguments, one request a line, and replies in JSON.

    {"function": "module:name", "args": [...] or {...}}  →  {"value": …} | {"error": "ValueError: …", "fields": {…} | null}

A value with a method `write_payload(file)` is replied as {"payload": true}, then chunks of bytes, each after its length (8 bytes, big-endian);
a length of 0 ends them. `fields` are `type`, `message` and `fix` of an error that has the latter two.

A worker that forks imports its modules once and forks the process that replies; when that ends, it forks another, which takes milliseconds. It then
also sends {"got": true} for a request that it has read, and {"ready": pid, "status": …} on a line of its own for each process: `status` is how the one
before ended.

The file is started by path and imports the standard library alone. The first line of input is its setup, see `WorkerSetup.first_line`.
"""

import importlib
import json
import os
import resource
import select
import sys
import threading
from typing import Any


def main() -> None:
    """Replies to requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a function prints must not land between replies
    threading.Thread(target=end_with_parent, daemon=True).start()
    setup: dict[str, Any] = json.loads(sys.stdin.readline())
    os.nice(setup["niceness"])
    if setup["path"] is not None:
        sys.path[:] = setup["path"]
    sys.path[:0] = setup["folders"]
    try:
        for module in setup["modules"]:
            importlib.import_module(module)
    except Exception as error:
        send(replies, failure(error))
        return
    status = None
    while setup["forks"] and (child := os.fork()):
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if setup["forks"]:
        threading.Thread(target=end_with_parent, daemon=True).start()
        write_all(replies, b"\n")  # ends a line that the process before left unfinished
    limit_resources(setup["memory_bytes"], setup["file_bytes"])
    send(replies, {"ready": os.getpid(), "status": status})
    for line in sys.stdin:
        if setup["forks"]:
            send(replies, {"got": True})
        if setup["cpu_s"] is not None:
            limit_cpu(setup["cpu_s"])
        reply(replies, json.loads(line), setup["reply_bytes"])


def end_with_parent() -> None:
    """Ends this process once the other end of stdin is closed, even while a function runs."""
    poller = select.poll()
    poller.register(0, 0)  # a hang-up is always reported
    poller.poll()
    os._exit(1)


def limit_resources(memory_bytes: int | None, file_bytes: int | None) -> None:
    """Bounds the address space and the size of files, and leaves no core file."""
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(seconds: float) -> None:
    """The kernel ends this process when one call uses more: the parent may be gone, and one native instruction may run forever."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft, hard = int(used.ru_utime + used.ru_stime + seconds) + 2, resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def reply(replies: Any, request: dict[str, Any], limit: int | None) -> None:
    """Calls the function and sends its value."""
    try:
        module, _, name = request["function"].partition(":")
        function, args = getattr(importlib.import_module(module), name), request["args"]
        value = function(**args) if isinstance(args, dict) else function(*args)
        write = getattr(value, "write_payload", None)
        line = json.dumps({"payload": True} if write else {"value": value}).encode()
    except MemoryError:
        os._exit(1)  # the process may be in no state for another call
    except Exception as error:
        send(replies, failure(error))
        return
    if limit is not None and len(line) > limit:
        send(replies, {"error": f"OverflowError: a reply of {len(line)} bytes", "fields": None})
        return
    write_all(replies, line + b"\n")
    if write:
        chunks = Chunks(replies)
        write(chunks)
        chunks.end()


def failure(error: Exception) -> dict[str, Any]:
    """The error in one short line, also when its text cannot be made; with its fields where it is an error of rollhouse."""
    try:
        text = " ".join(str(error).split())[:500]
    except Exception:
        text = ""
    name, parts = type(error).__name__, (getattr(error, "message", None), getattr(error, "fix", None))
    known = all(isinstance(part, str) for part in parts)
    fields = {"type": name, "message": parts[0], "fix": parts[1]} if known else None
    return {"error": f"{name}: {text}", "fields": fields}


def send(replies: Any, message: dict[str, Any]) -> None:
    """Writes one line."""
    write_all(replies, json.dumps(message).encode() + b"\n")


def write_all(file: Any, data: Any) -> None:
    """Writes all of the data to an unbuffered pipe, which takes a part at a time."""
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view) :]


class Chunks:
    """A binary file for `write_payload` whose writes become chunks of the reply."""

    closed = False

    def __init__(self, replies: Any) -> None:
        self._replies = replies

    def write(self, data: Any) -> int:
        """Sends the bytes as one chunk."""
        size = memoryview(data).nbytes
        if size:
            write_all(self._replies, size.to_bytes(8, "big"))
            write_all(self._replies, data)
        return size

    def flush(self) -> None:
        """Nothing is buffered."""

    def end(self) -> None:
        """Sends the mark after the last chunk."""
        write_all(self._replies, bytes(8))


if __name__ == "__main__":
    main()
