"""An OpenAI-compatible server that answers at once: one tool call, then a message. A process of its own, for benchmarks/collect.py.

    python benchmarks/collect_server.py [--hold N]

Prints its port. It does no more than read a request to its end and answer, so that what is measured is the client. `--hold N` keeps every
answer back until N requests wait for one (or nothing has come for two seconds), which makes the client have N in flight. GET /stats returns
the number of requests and the most that waited at one time; GET /v1/models is a client's first request.
"""

import argparse
import asyncio
import json

MODEL = "dummy"
_IDLE_S = 2.0


def reply(message: dict, reason: str) -> bytes:
    """A whole HTTP response with a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return response({"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage})  # fmt: skip


def response(body: dict) -> bytes:
    """A whole HTTP response."""
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)


EVENT = {"event_name": "Planning", "participant_email": "ana.ruiz@atlas.com", "event_start": "2023-12-04 10:00:00", "duration": "30"}  # fmt: skip
CALL = {"id": "call_0", "type": "function", "function": {"name": "calendar_create_event", "arguments": json.dumps(EVENT)}}  # fmt: skip
CALLS = reply({"content": None, "tool_calls": [CALL]}, "tool_calls")
SAYS = reply({"content": "The meeting is planned."}, "stop")
MODELS = response({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "benchmark"}]})


class Hold:
    """Answers that are held until there are enough of them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.requests = self.most = 0
        self._kept: list[tuple[asyncio.Transport, bytes]] = []
        self._last = 0.0

    def answer(self, transport: asyncio.Transport, data: bytes) -> None:
        """Sends the answer, now or with the others."""
        self.requests += 1
        if not self.count:
            transport.write(data)
            return
        self._kept.append((transport, data))
        self._last = asyncio.get_running_loop().time()
        self.most = max(self.most, len(self._kept))
        if len(self._kept) >= self.count:
            self.let_go()

    def let_go(self) -> None:
        """Sends all held answers."""
        kept, self._kept = self._kept, []
        for transport, data in kept:
            transport.write(data)

    async def watch(self) -> None:
        """Sends the held answers when no further request comes."""
        while True:
            await asyncio.sleep(0.25)
            if self._kept and asyncio.get_running_loop().time() - self._last > _IDLE_S:
                self.let_go()


class Connection(asyncio.Protocol):
    """Reads requests in sequence."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._data = bytearray()
        self._end: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._whole():
            request = bytes(self._data[: self._end])
            del self._data[: self._end]
            self._end = None
            self._answer(request)

    def _whole(self) -> bool:
        if self._end is None:
            head = self._data.find(b"\r\n\r\n")
            if head < 0:
                return False
            name = bytes(self._data[:head]).lower().find(b"content-length:")
            length = int(self._data[name + 15 : self._data.index(b"\r\n", name)]) if name >= 0 else 0
            self._end = head + 4 + length
        return len(self._data) >= self._end

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"POST"):
            # The second request of a rollout ends with the tool's result.
            self._hold.answer(self._transport, SAYS if request.rfind(b'"tool_call_id"') >= 0 else CALLS)
        elif request.startswith(b"GET /stats"):
            self._transport.write(response({"requests": self._hold.requests, "most_waiting": self._hold.most}))
        else:
            self._transport.write(MODELS)


async def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hold", type=int, default=0)
    hold = Hold(parser.parse_args().hold)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(hold), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await hold.watch()


if __name__ == "__main__":
    asyncio.run(main())
