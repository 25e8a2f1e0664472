"""An agent server of NeMo Gym: it gets the task's row by POST `/run`, plays it against the run's engine, and answers with the reward.

The server's model is configured before the run: its base URL is that of `port`, its key that of `key_env`. Its calls name the rollout by the `metadata` of the
row's `responses_create_params`, which an agent server hands on to its model.
"""

import asyncio
import http.client
import json
import urllib.parse
from typing import Any

from ...base.errors import ConfigError, EngineError, one_line
from ...base.secrets import refuse_in_url
from ...environments.tasks_file import row_from_task
from ...store.task import Task
from ..client import HarnessClient

_NOT_COMPONENTS = ("reward",)


async def run(task: Task, client: HarnessClient, url: str = "") -> dict[str, Any]:
    """The verdict of the agent server at `url`. Numbers of its answer beside the reward are components."""
    if not url.startswith("http://"):
        raise ConfigError("The harness nemo-gym needs the option url, http://HOST:PORT of the agent server.", "Set environment.harness.options.url.")  # fmt: skip
    refuse_in_url(url, "environment.harness.options.url")
    row = row_from_task(task)
    params = row["responses_create_params"]
    name = client.access.url.rpartition("/")[2]
    row["responses_create_params"] = {**params, "metadata": {**(params.get("metadata") or {}), "rollout_id": name}}
    answer = await asyncio.to_thread(_post, url, row)
    reward = answer.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, (int, float)):
        raise EngineError(f"The agent server's answer has no reward: {one_line(json.dumps(answer), 200)}", "See its log.")  # fmt: skip
    others = {key: float(value) for key, value in answer.items() if key not in (*_NOT_COMPONENTS, *row) and not key.startswith("_") and isinstance(value, (int, float))}  # fmt: skip
    return {"reward": float(reward), "scorer": "nemo-gym", "components": others}


def _post(url: str, row: dict[str, Any]) -> dict[str, Any]:
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    try:
        connection.request(
            "POST", f"{place.path.rstrip('/')}/run", json.dumps(row), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status != 200:
        raise EngineError(f"The agent server answered {answer.status}: {one_line(text, 300)}", "See its log.")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise EngineError("The agent server's answer is not an object.", "See its log.")
    return found
