"""The tool-calling agent of smolagents (packages smolagents and openai) with the environment's tools."""

from typing import Any

from ...base.packages import need
from ...store.task import Task
from ..client import HarnessClient, HarnessTool
from .prompts import instructions_of, request_of

need("smolagents")


def run(task: Task, client: HarnessClient, max_turns: int = 6) -> None:
    """Plays one task; the environment judges.

    The agent's own tool `final_answer` ends it. The model chooses whether it calls a tool: forced calls would not be sampled from its own distribution.
    """
    smolagents = need("smolagents")

    class Model(smolagents.OpenAIServerModel):
        def _prepare_completion_kwargs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            found = super()._prepare_completion_kwargs(*args, **kwargs)
            return {name: value for name, value in found.items() if name != "tool_choice"}

    model = Model(client.model, api_base=client.base_url, api_key=client.api_key, client_kwargs={"max_retries": 0})
    tools = [_tool(tool) for tool in client.tools]
    agent = smolagents.ToolCallingAgent(tools, model, max_steps=max_turns, instructions=instructions_of(task))
    agent.run(request_of(task))


def _tool(tool: HarnessTool) -> Any:
    schemas = dict(tool.parameters).get("properties") or {}
    required = set(dict(tool.parameters).get("required") or ())

    class EnvironmentTool(need("smolagents").Tool):  # type: ignore[misc]
        name, description, output_type = tool.name, tool.description, "string"
        inputs = {each: {"type": schema.get("type") or "any", "description": schema.get("description") or each, **({} if each in required else {"nullable": True})} for each, schema in schemas.items()}  # fmt: skip  # noqa: RUF012
        skip_forward_signature_validation = True

        def forward(self, **arguments: Any) -> str:
            return tool.call_sync({name: value for name, value in arguments.items() if value is not None})

    return EnvironmentTool()
