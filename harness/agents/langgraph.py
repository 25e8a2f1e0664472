"""LangGraph's ReAct agent (packages langgraph and langchain-openai) with the environment's tools."""

from typing import Any

from ...base.packages import need
from ...store.task import Task
from ..client import HarnessClient, HarnessTool
from .prompts import instructions_of, request_of

need("langgraph.prebuilt")
need("langchain_openai")


async def run(task: Task, client: HarnessClient, max_turns: int = 6) -> None:
    """Plays one task; the environment judges."""
    model = need("langchain_openai").ChatOpenAI(model=client.model, base_url=client.base_url, api_key=client.api_key, max_retries=0)  # fmt: skip
    tools = [_tool(tool) for tool in client.tools]
    agent = need("langgraph.prebuilt").create_react_agent(model, tools, prompt=instructions_of(task))
    try:
        await agent.ainvoke({"messages": [("user", request_of(task))]}, {"recursion_limit": 2 * max_turns + 1})
    except need("langgraph.errors").GraphRecursionError as error:  # the turns are judged as they are
        print(f"{type(error).__name__}: {error}")


def _tool(tool: HarnessTool) -> Any:
    async def invoke(**arguments: Any) -> str:
        return await tool.call(arguments)

    return need("langchain_core.tools").StructuredTool(
        name=tool.name, description=tool.description, args_schema=dict(tool.parameters), coroutine=invoke
    )
