"""A small agent written with the plain OpenAI client, like a user's harness."""

import asyncio
import json
from typing import Any

from openai import OpenAI
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.types import Turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Task


def play(client: OpenAI, task: Task, *, turns: int = 4, echo: str = "plain", **settings: Any) -> list[dict[str, Any]]:
    """Plays the task and returns the conversation as the agent keeps it.

    `echo` is how it keeps the model's turns: `plain` role, content and calls only; `whole` with every field that came; `rewritten` with the
    arguments of calls written anew and ids of its own for them.
    """
    session = MiniEnvironment().start(task)
    messages: list[Any] = [message.to_openai() for message in task.messages]
    request = {"model": "any", "tools": [dict(tool) for tool in task.tools], "temperature": 0, "max_tokens": 200}
    for _ in range(turns):
        output = client.chat.completions.create(messages=messages, **{**request, **settings}).choices[0].message
        messages.append(kept(output, echo))
        if not output.tool_calls:
            break
        calls = tuple(ToolCall(call["id"], **call["function"]) for call in messages[-1]["tool_calls"])
        answers = asyncio.run(session.step(Turn(Message("assistant", output.content, calls))))
        assert isinstance(answers, list)
        messages += [{"role": "tool", "tool_call_id": one.tool_call_id, "content": one.text} for one in answers]
    return messages


def kept(output: Any, echo: str = "plain") -> dict[str, Any]:
    """A turn of the model as an agent keeps it."""
    whole = output.model_dump(exclude_none=True)
    if echo == "whole":
        return whole
    turn = {"role": "assistant", "content": output.content or ""}
    calls = whole.get("tool_calls", [])
    for call in calls if echo == "rewritten" else []:
        call["id"] = "x" + call["id"]
        call["function"]["arguments"] = json.dumps(json.loads(call["function"]["arguments"]), indent=2)
    return {**turn, "tool_calls": calls} if calls else turn
