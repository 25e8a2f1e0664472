"""The OpenAI Agents SDK (package openai-agents) with the environment's tools."""

from typing import Any

from ...base.packages import need
from ...store.task import Task
from ..client import HarnessClient, HarnessTool
from .prompts import instructions_of, request_of

need("agents")


async def run(task: Task, client: HarnessClient, max_turns: int = 6, api: str = "chat") -> None:
    """Plays one task; the environment judges.

    Args:
        api: The model's API: `chat` or `responses`.
    """
    agents = need("agents")
    kind = agents.OpenAIResponsesModel if api == "responses" else agents.OpenAIChatCompletionsModel
    agent = agents.Agent(
        name=task.environment,
        instructions=instructions_of(task),
        tools=[_tool(tool) for tool in client.tools],
        model=kind(client.model, client.openai),
    )
    try:
        await agents.Runner.run(agent, request_of(task), max_turns=max_turns)
    except (agents.MaxTurnsExceeded, agents.ModelBehaviorError) as error:  # the turns are judged as they are
        print(f"{type(error).__name__}: {error}")


def _tool(tool: HarnessTool) -> Any:
    async def invoke(context: Any, arguments: str) -> str:
        return await tool.call(arguments)

    return need("agents").FunctionTool(
        name=tool.name,
        description=tool.description,
        params_json_schema=dict(tool.parameters),
        on_invoke_tool=invoke,
        strict_json_schema=False,
    )
