"""Harnesses of the tests: an agent that plays, and programs that misbehave."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rollhouse.harness.client import HarnessClient
from rollhouse.store.task import Score, Task


def ask(client: HarnessClient, messages: list[dict[str, Any]], tools: Any = (), **more: Any) -> dict[str, Any]:
    """The next message of a conversation."""
    body = {"model": client.model, "messages": messages, **({"tools": list(tools)} if tools else {}), **more}
    return client.post("/v1/chat/completions", body)["choices"][0]["message"]


def hello(client: HarnessClient, text: str = "hello", **more: Any) -> dict[str, Any]:
    """One short call."""
    return ask(client, [{"role": "user", "content": text}], **more)


def clerk(task: Task, client: HarnessClient, max_turns: int = 6) -> None:
    """An agent with the environment's tools, whose verdict is the environment's."""
    print("a task of", task.category)
    messages = [message.to_openai() for message in task.messages]
    tools = {tool.name: tool for tool in client.tools}
    for _ in range(max_turns):
        answer = ask(client, messages, task.tools, temperature=0.3, max_tokens=4096)
        messages.append({name: answer[name] for name in ("role", "content", "tool_calls") if answer.get(name)})
        if not answer.get("tool_calls"):
            return
        for call in answer["tool_calls"]:
            function = call["function"]
            known = tools.get(function["name"])
            text = known.call_sync(function["arguments"]) if known else "Error: there is no such tool"
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})


async def judge(task: Task, client: HarnessClient) -> Score:
    """A verdict of its own, after a call of an agent beside it."""
    hello(client)
    hello(client.agent("helper"))
    return Score(0.5, False, "judge", "2", (("style", 0.5, 1.0),))


def parallel(task: Task, client: HarnessClient) -> float:
    """The first call, then two that go on from it."""
    first = hello(client)
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": first["content"]}]
    for text in ("one", "two"):
        ask(client, [*said, {"role": "user", "content": text}])
    return 1.0


def crash(task: Task, client: HarnessClient) -> float:
    hello(client)
    raise RuntimeError("the agent is broken")


def die(task: Task, client: HarnessClient) -> float:
    hello(client)
    os.kill(os.getpid(), 9)
    return 1.0


async def hang(task: Task, client: HarnessClient) -> float:
    hello(client)
    await asyncio.sleep(600)
    return 1.0


def block(task: Task, client: HarnessClient) -> float:
    hello(client)
    time.sleep(600)
    return 1.0


def spin(task: Task, client: HarnessClient) -> float:
    hello(client)
    while True:
        pass


def fork(task: Task, client: HarnessClient, marks: str = "") -> float:
    """Leaves processes in sessions of their own, then hangs."""
    code = f"import os, time; open({marks!r} + '/' + str(os.getpid()), 'w'); time.sleep(600)"
    for _ in range(3):
        if not os.fork():
            os.setsid()
            if not os.fork():
                subprocess.run([sys.executable, "-S", "-c", code], start_new_session=True)
            os._exit(0)
    while len(list(Path(marks).iterdir())) < 3:
        time.sleep(0.01)
    hello(client)
    time.sleep(600)
    return 1.0


def kill_watcher(task: Task, client: HarnessClient, marks: str = "") -> float:
    """Kills the process that watches it."""
    (Path(marks) / str(os.getpid())).touch()
    hello(client)
    os.kill(os.getppid(), 9)
    time.sleep(600)
    return 1.0


def flood(task: Task, client: HarnessClient) -> float:
    hello(client)
    for _ in range(400):
        print("x" * 100_000)
    print("the end")
    return 1.0


def finish_twice(task: Task, client: HarnessClient) -> None:
    """Posts the same verdict twice, and another one, which is refused."""
    hello(client)
    assert client.post("/finish", {"reward": 1.0}) == client.post("/finish", {"reward": 1.0})
    client.post("/finish", {"reward": 0.0})


def finish(task: Task, client: HarnessClient) -> None:
    hello(client)
    client.post("/finish", {"reward": 0.75, "metadata": {"seen": [1]}})


def never(task: Task, client: HarnessClient) -> float:
    return 1.0


def after_the_end(task: Task, client: HarnessClient) -> None:
    hello(client)
    client.post("/finish", {"reward": 1.0})
    hello(client, "again")


def many_calls(task: Task, client: HarnessClient) -> float:
    for number in range(100):
        hello(client, str(number))
    return 1.0


def nonsense(task: Task, client: HarnessClient) -> Any:
    hello(client)
    return "very good"


def not_a_number(task: Task, client: HarnessClient) -> float:
    hello(client)
    return float("nan")


def misbehave(task: Task, client: HarnessClient, marks: str = "") -> Any:
    """The fault that the task names."""
    fault = globals()[str(task.messages[0].text)]
    folder = Path(marks) / str(task.messages[0].text)
    return fault(task, client, str(folder)) if fault in (fork, kill_watcher) else fault(task, client)


def main() -> None:
    """The program of a command line: what the environment says is where its model is."""
    import urllib.request

    task = json.loads(Path(os.environ["ROLLHOUSE_TASK"]).read_text())
    body = {"messages": task["messages"], "max_tokens": 3}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
    mode = sys.argv[1]
    if mode == "file":
        Path(os.environ["ROLLHOUSE_RESULT"]).write_text(json.dumps({"reward": 0.25, "passed": True}))
    if mode == "hidden":
        assert "ground_truth" not in task and "state" not in task
    print("did", mode)
    sys.exit(3 if mode == "fail" else 0)


if __name__ == "__main__":
    main()
