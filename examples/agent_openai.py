"""An agent in plain OpenAI client code, recorded by `rollhouse serve` (docs/serve.md).

    python examples/agent_openai.py http://127.0.0.1:8000 episode-1

It uses rollhouse only in the base URL that names its rollout, and in the call that ends it.
"""

import json
import sys
import urllib.request

from openai import OpenAI

STOCK = {"apples": 12, "pears": 0}
TOOL = {"type": "function", "function": {"name": "count_stock", "description": "How many of a fruit there are.", "parameters": {"type": "object", "properties": {"fruit": {"type": "string"}}, "required": ["fruit"]}}}  # fmt: skip


def run_tool(arguments: str) -> str:
    """The tool's result; a model's arguments may be anything."""
    try:
        return str(STOCK.get(json.loads(arguments)["fruit"], "unknown"))
    except (ValueError, KeyError, TypeError) as error:
        return f"Error: {error!r}"


def main(server: str, rollout_id: str) -> None:
    """Plays one episode, rewards it, and prints the rows it became."""
    client = OpenAI(base_url=f"{server}/rollouts/{rollout_id}/v1", api_key="none")
    messages = [{"role": "user", "content": "How many pears are there?"}]
    for _ in range(6):
        turn = client.chat.completions.create(
            model="any", messages=messages, tools=[TOOL], max_tokens=200, temperature=0
        )
        message = turn.choices[0].message
        messages.append(message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True))
        for call in message.tool_calls or []:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": run_tool(call.function.arguments)})
        if not message.tool_calls:
            break
    reward = float("0" in (messages[-1].get("content") or ""))
    ending = json.dumps({"reward": reward, "task": {"ground_truth": "0"}}).encode()
    request = urllib.request.Request(
        f"{server}/rollouts/{rollout_id}/finish", ending, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        print(reply.read().decode())


if __name__ == "__main__":
    main(*sys.argv[1:3])
