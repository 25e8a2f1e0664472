"""An agent of the OpenAI Agents SDK for the small office, and its reward: what `rollhouse train grpo --harness examples/office_agent.py:run` trains."""

import copy
import json

from agents import Agent, FunctionTool, MaxTurnsExceeded, ModelBehaviorError, OpenAIChatCompletionsModel, Runner
from rollhouse.environments.workplace_mini import final_state, run_tool


def tool(office, function):
    """A tool of the agent that works on the office."""

    async def call(context, arguments):
        try:
            return run_tool(office, function["name"], json.loads(arguments)).text
        except ValueError:
            return "Error: the arguments are not JSON"

    name, description, schema = function["name"], function["description"], function["parameters"]
    return FunctionTool(name, description, schema, call, strict_json_schema=False)


async def run(task, client):
    """Plays one task; the reward is 1 when the office is as it should be."""
    office = copy.deepcopy(task.state)
    model = OpenAIChatCompletionsModel(client.model, client.openai)
    clerk = Agent("clerk", tools=[tool(office, one["function"]) for one in task.tools], model=model)
    try:
        await Runner.run(clerk, task.messages[-1].text, max_turns=6)
    except (MaxTurnsExceeded, ModelBehaviorError) as error:
        print(f"{type(error).__name__}: {error}")
    return float(office == final_state(task.state, task.ground_truth))
