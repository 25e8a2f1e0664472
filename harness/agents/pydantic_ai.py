"""Pydantic AI (package pydantic-ai-slim[openai]) with the environment's tools."""

from typing import Any

from ...base.packages import need
from ...store.task import Task
from ..client import HarnessClient, HarnessTool
from .prompts import instructions_of, request_of

need("pydantic_ai.models.openai")


async def run(task: Task, client: HarnessClient, max_turns: int = 6) -> None:
    """Plays one task; the environment judges."""
    ai, models = need("pydantic_ai"), need("pydantic_ai.models.openai")
    provider = need("pydantic_ai.providers.openai").OpenAIProvider(openai_client=client.openai)
    model = models.OpenAIChatModel(client.model, provider=provider)
    agent = ai.Agent(model, instructions=instructions_of(task), tools=[_tool(tool) for tool in client.tools])
    limits = need("pydantic_ai.usage").UsageLimits(request_limit=max_turns)
    errors = need("pydantic_ai.exceptions")
    try:
        await agent.run(request_of(task), usage_limits=limits)
    except (errors.UsageLimitExceeded, errors.UnexpectedModelBehavior) as error:  # the turns are judged as they are
        print(f"{type(error).__name__}: {error}")


def _tool(tool: HarnessTool) -> Any:
    async def invoke(**arguments: Any) -> str:
        return await tool.call(arguments)

    return need("pydantic_ai").Tool.from_schema(invoke, tool.name, tool.description, dict(tool.parameters))
