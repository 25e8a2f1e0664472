"""What recording costs between an agent and its model: `rollhouse serve` over an engine that answers at once, against a bare aiohttp server that
parses and answers the same bodies.

    python benchmarks/gateway.py [--quick] [--agents 64,512] [--rounds 2] [--out docs/benchmarks-gateway.md]

An agent uses the openai package and plays episodes of 12 calls: tools, a task, and with each call all messages so far. Servers and clients are
processes of their own. Exits 1 when a goal is missed. At most 3 minutes on a quiet machine of two cores.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from rollhouse.environments.workplace_mini import MiniEnvironment

HERE = Path(__file__).parent
TURNS = 12
LEAST_SHARE = 0.5
MOST_GROWTH = 1.5
RESULT = json.dumps([{"event_id": f"0000{i}", "name": "campaign list", "start": "2026-03-02 09:00"} for i in range(3)])


@dataclass(frozen=True)
class Load:
    """What a number of agents measured.

    Attributes:
        rate: Requests per second.
        p50, p99: Latency, milliseconds.
        cpu: CPU time of the server per request, milliseconds.
    """

    rate: float
    p50: float
    p99: float
    cpu: float = 0.0


def main() -> int:
    """Measures and prints the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the calls, one round")
    parser.add_argument("--agents", default="64,512")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--client", nargs=3, metavar=("URL", "AGENTS", "EPISODES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        url, agents, episodes = options.client
        print(json.dumps(vars(asyncio.run(play_all(url, int(agents), int(episodes))))))
        return 0
    page, met = measured(
        [int(one) for one in options.agents.split(",")], 1 if options.quick else options.rounds, options.quick
    )
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    return 0 if met else 1


def measured(agents: list[int], rounds: int, quick: bool) -> tuple[str, bool]:
    """The page, and whether the goals are met."""
    lines = [
        "# Serving, measured",
        "",
        "Written by `python benchmarks/gateway.py --out docs/benchmarks-gateway.md`: agents with the `openai` package in one process, the server in another; an engine that answers at once; the bare server is "
        "aiohttp that parses the same bodies and answers always alike.",
        "",
        "| agents | requests/s, bare | requests/s, serve | share | p50 added | p99 added | server's CPU per request, bare | serve |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    met = True
    for count in agents:
        episodes = max(1, (128 if quick else 256) // count // 2)
        pairs = [(load("bare", count, episodes), load("gateway", count, episodes)) for _ in range(rounds)]
        share = median(ours.rate / theirs.rate for theirs, ours in pairs)
        met = met and share >= LEAST_SHARE
        theirs, ours = (median(one.rate for one in each) for each in zip(*pairs, strict=True))
        spent = [median(one.cpu for one in each) for each in zip(*pairs, strict=True)]
        added = [median(getattr(o, name) - getattr(t, name) for t, o in pairs) for name in ("p50", "p99")]
        lines.append(
            f"| {count} | {theirs:,.0f} | {ours:,.0f} | {share:.2f} | {added[0]:.1f} ms | {added[1]:.1f} ms | {spent[0]:.2f} ms | {spent[1]:.2f} ms |"
        )
    held, growth = asyncio.run(in_memory(32 if quick else 128)), asyncio.run(long_conversation())
    met = met and growth <= MOST_GROWTH
    lines += [
        "",
        f"The goal is a share of at least {LEAST_SHARE:g} (the median of {rounds} rounds). Latencies include the waiting of all agents for one client process. An open rollout of {TURNS} calls takes {held / 1024:.0f} KiB of memory. "
        f"In a conversation of 100 turns the time that the server adds to a call, beyond what the bare server takes for the same body, is {growth:.2f} times as long in the last "
        f"quarter as in the second (goal: at most {MOST_GROWTH:g}).",
        "",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), load {os.getloadavg()[0]:.1f} at the end; Python {platform.python_version()}. Compare ratios, not absolute times.",
        "",
    ]
    return "\n".join(lines), met


def load(kind: str, agents: int, episodes: int) -> Load:
    """One measurement with processes of its own."""
    with server(kind) as url:
        command = [sys.executable, __file__, "--client", url, str(agents), str(episodes)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        return Load(**found)


@contextmanager
def server(kind: str) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    with tempfile.TemporaryDirectory(prefix="rollhouse-bench-") as folder:
        command = [sys.executable, str(HERE / "gateway_server.py"), kind, f"{folder}/store"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield f"http://127.0.0.1:{int(process.stdout.readline())}"
            finally:
                process.kill()


@cache
def first_request() -> bytes:
    """The first request of an episode, as JSON."""
    task = next(iter(MiniEnvironment().tasks("train")))
    tools = [dict(tool) for tool in task.tools]
    request = {"model": "m", "tools": tools, "messages": [message.to_openai() for message in task.messages], "max_tokens": 200}  # fmt: skip
    return json.dumps(request).encode()


async def play(session: aiohttp.ClientSession, url: str, turns: int, taken: list[float], ends: bool = True) -> None:
    """One episode."""
    request = json.loads(first_request())
    for turn in range(turns):
        body = json.dumps(request).encode()
        start = time.perf_counter()
        async with session.post(f"{url}/v1/chat/completions", data=body) as reply:
            answer = json.loads(await reply.read())
        taken.append(time.perf_counter() - start)
        message = answer["choices"][0]["message"]
        call = message["tool_calls"][0]
        request["messages"] += [message, {"role": "tool", "tool_call_id": call["id"], "content": f"{RESULT} {turn}"}]
    if ends:
        async with session.post(f"{url}/finish", data=b'{"reward": 1}') as reply:
            await reply.read()


def opened() -> aiohttp.ClientSession:
    """A session for any number of calls at once."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers={"Content-Type": "application/json"})


async def play_as_agent(client: Any, url: str, taken: list[float]) -> None:
    """One episode with the openai package."""
    request = json.loads(first_request())
    mine = client.with_options(base_url=f"{url}/v1")
    for turn in range(TURNS):
        start = time.perf_counter()
        answer = await mine.chat.completions.create(**request)
        taken.append(time.perf_counter() - start)
        message = answer.choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": f"{RESULT} {turn}"}
        request["messages"] += [message.model_dump(exclude_none=True), result]
    await mine.post(f"{url}/finish", body={"reward": 1}, cast_to=object)


async def play_all(url: str, agents: int, episodes: int) -> Load:
    """So many agents at once, each with so many episodes one after the other."""
    import openai

    taken: list[float] = []
    http = openai.DefaultAsyncHttpxClient(verify=False, timeout=None)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=None, http_client=http)

    async def agent(number: int) -> None:
        for episode in range(episodes):
            await play_as_agent(client, f"{url}/rollouts/{number}-{episode}", taken)

    async with opened() as session, client:
        await play_as_agent(client, f"{url}/rollouts/warm", [])
        before, start = await number_at(session, f"{url}/cpu"), time.perf_counter()
        await asyncio.gather(*[agent(number) for number in range(agents)])
        seconds = time.perf_counter() - start
        spent = await number_at(session, f"{url}/cpu") - before
    ordered = sorted(taken)
    whole = Load(len(taken) / seconds, 1000 * ordered[len(ordered) // 2], 1000 * ordered[int(len(ordered) * 0.99)])
    return replace(whole, cpu=1000 * spent / len(taken))


async def number_at(session: aiohttp.ClientSession, url: str) -> float:
    """A number at an address of the server."""
    async with session.get(url) as reply:
        return json.loads(await reply.read())


async def in_memory(rollouts: int) -> float:
    """Bytes for each open rollout."""
    with server("gateway") as url:
        async with opened() as session:
            await play(session, f"{url}/rollouts/warm", TURNS, [], ends=False)
            before = await number_at(session, f"{url}/memory")
            for number in range(rollouts):
                await play(session, f"{url}/rollouts/{number}", TURNS, [], ends=False)
            return (await number_at(session, f"{url}/memory") - before) / rollouts


async def long_conversation(turns: int = 100, repeats: int = 5) -> float:
    """How many times as long the added time of a call is at the end of a long conversation as in its second quarter."""
    added: dict[str, list[float]] = {}
    for kind in ("bare", "gateway"):
        with server(kind) as url:
            async with opened() as session:
                runs: list[list[float]] = [[] for _ in range(repeats)]
                for number, taken in enumerate(runs):
                    await play(session, f"{url}/rollouts/{number}", turns, taken, ends=False)
                added[kind] = [min(times) for times in zip(*runs, strict=True)]
    more = [ours - theirs for ours, theirs in zip(added["gateway"], added["bare"], strict=True)]
    quarter = turns // 4
    return sum(more[-quarter:]) / sum(more[quarter : 2 * quarter])


if __name__ == "__main__":
    sys.exit(main())
