"""Lists the tasks of an environment of verifiers 0.4, and plays one of them: a program for the Python that has the package.

It imports the standard library and verifiers, so it also runs by its path under another interpreter than rollhouse's. It reads one JSON object from stdin
(`work`: `tasks` or `play`, and the arguments of that function) and writes JSON lines to stdout; what the environment prints goes to stderr.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

_POLICY_KEY = "ROLLHOUSE_VERIFIERS_KEY"


def open_environment(env_id: str, settings: Mapping[str, Any], policy: str | None = None, url: str | None = None) -> Any:  # fmt: skip
    """The environment of a taskset's id.

    Args:
        settings: Of the environment's configuration (`taskset`, `agent`, `id`, …), as under `[env]` of an eval's TOML file.
        policy: The agent whose model is the policy; None is the first that the environment declares.
        url: `http://HOST:PORT/rollouts/ID` of the rollout; None for an environment that is only listed.
    """
    from verifiers.v1.configs.agent import agent_config_fields
    from verifiers.v1.utils.loaders import load_environment, resolve_env_config

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    given = {**settings, "taskset": {**(settings.get("taskset") or {}), "id": env_id}}
    given.setdefault("interception", {"type": "server"})
    agents = agent_config_fields(resolve_env_config(json.loads(json.dumps(given))))
    main = main_agent(list(agents), policy)
    for name, config in agents.items():
        own = given[name] = dict(given.get(name) or {})
        if config.runtime.type == "prime" and "runtime" not in own:  # its default, which needs an account
            own["runtime"] = {"type": "subprocess"}
        if url is not None and config.client is None:
            place = url if name == main else f"{url}/agents/{name}"
            own["client"] = {"type": "eval", "base_url": f"{place}/v1", "api_key_var": _POLICY_KEY}
    return load_environment(resolve_env_config(given))


def main_agent(names: list[str], policy: str | None) -> str:
    """The agent whose model is the policy. Raises ValueError for an unknown one."""
    if policy is not None and policy not in names:
        raise ValueError(f"the environment has no agent {policy!r}; it has {', '.join(names)}")
    return policy or names[0]


def tasks(env_id: str, settings: Mapping[str, Any], policy: str | None = None) -> Iterator[dict[str, Any]]:
    """First `{"ends": whether the list ends, "version": of the package}`, then `{"data", "messages", "name", "key"}` of each task."""
    from verifiers import __version__
    from verifiers.v1.dialects.chat import message_to_wire

    taskset = open_environment(env_id, settings, policy).taskset
    yield {"ends": bool(taskset.bounded), "version": __version__}
    for task in taskset:
        data = task.data
        messages = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
        if isinstance(data.prompt, str):
            messages.append({"role": "user", "content": data.prompt})
        else:
            messages += [message_to_wire(message) for message in data.prompt or ()]
        yield {
            "data": data.model_dump(mode="json", exclude_defaults=True),
            "messages": messages,
            "name": data.name,
            "key": task.key,
        }


async def play(
    env_id: str,
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    url: str,
    api_key: str,
    model: str,
    policy: str | None = None,
    pass_at: float = 1.0,
) -> dict[str, Any]:
    """Plays a task against the run's engine: the body of a verdict. Raises RuntimeError for an episode that failed.

    Args:
        data: The task, as `tasks` gave it.
        pass_at: The least reward of a rollout that passes.
    """
    os.environ[_POLICY_KEY] = api_key
    environment = open_environment(env_id, settings, policy, url)
    kind = type(environment.taskset).task_type()
    task = kind(kind.data_type().model_validate(data), environment.config.taskset.task)
    return _verdict(env_id, await _episode(environment, task, url, model), policy, pass_at)


async def _episode(environment: Any, task: Any, url: str, model: str) -> Any:
    from verifiers.v1.clients import ModelContext
    from verifiers.v1.configs.client import EvalClientConfig
    from verifiers.v1.types import SamplingConfig

    client = EvalClientConfig(base_url=f"{url}/v1", api_key_var=_POLICY_KEY)
    context = ModelContext(client=client, model=model, sampling=SamplingConfig.model_validate({}))
    (slot,) = environment.slots(task)
    async with environment.serving():
        return await environment.run_slot(slot, context)


def _verdict(env_id: str, episode: Any, policy: str | None, pass_at: float) -> dict[str, Any]:
    from verifiers import __version__

    failed = [error for holder in (episode, *episode.traces) for error in holder.errors]
    if not episode.ok:
        said = f"{failed[0].type}: {failed[0].message}" if failed else "it did not end well, and gave no reason"
        raise RuntimeError(f"the episode of {env_id} failed: {said}")
    names = list(dict.fromkeys(trace.agent.name for trace in episode.traces))
    main = policy or next((trace.agent.name for trace in episode.traces if trace.agent.trainable), names[0])
    own = [trace for trace in episode.traces if trace.agent.name == main]
    if len(own) != 1:
        raise RuntimeError(f"the episode of {env_id} has {len(own)} runs of the agent {main!r}, and one can have the reward")  # fmt: skip
    (trace,) = own
    parts = [{"name": name, "value": one.score, "weight": one.weight} for name, one in trace.rewards.items() if one]
    parts += [{"name": name, "value": one, "weight": 0.0} for name, one in trace.metrics.items() if one is not None]
    reward = float(trace.reward)
    found = {"reward": reward, "passed": reward >= pass_at, "scorer": f"verifiers/{env_id}", "scorer_version": __version__}  # fmt: skip
    if trace.is_truncated:
        found |= {"status": "truncated", "stop_reason": trace.stop_condition or "length"}
    return {**found, "components": parts}


def main() -> None:
    """The work that stdin names."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    work = request.pop("work")
    for found in tasks(**request) if work == "tasks" else [asyncio.run(play(**request))]:
        print(json.dumps(found), file=lines, flush=True)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # instead of this folder, where a module is called verifiers
    main()
