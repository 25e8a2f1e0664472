"""An environment of verifiers 0.4 (package verifiers): its own agents, tools and scoring, against the run's engine.

`verifiers:ID` is played by it. With the option `python` the package is needed in that interpreter alone.
"""

import importlib
import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ...base.errors import EngineError, one_line
from ...environments.adapters.verifiers import PROGRAM, is_here
from ...environments.adapters.verifiers_program import play
from ...store.task import Task
from ..client import HarnessClient

if is_here():  # once, before the programs are forked
    with suppress(ImportError):
        importlib.import_module("verifiers.v1.utils.loaders")


async def run(
    task: Task,
    client: HarnessClient,
    env_id: str,
    python: str | None = None,
    settings: Mapping[str, Any] | None = None,
    policy: str | None = None,
    pass_at: float = 1.0,
    **_: Any,
) -> dict[str, Any]:
    """The verdict of the environment: its rewards are components with their weights, its metrics components of weight 0. Raises for an episode that failed.

    Args:
        python, settings, policy, pass_at: As of `VerifiersEnvironment`.
    """
    access = client.access
    request: dict[str, Any] = {
        "env_id": env_id,
        "settings": dict(settings or {}),
        "data": task.ground_truth,
        "url": access.url,
        "api_key": access.api_key,
        "model": access.model,
        "policy": policy,
        "pass_at": pass_at,
    }
    if python is None:
        return await play(**request)
    ended = subprocess.run([python, str(PROGRAM)], input=json.dumps({"work": "play", **request}), capture_output=True, text=True)  # fmt: skip
    print(ended.stderr)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        raise EngineError(f"The environment's program failed: {one_line(lines[-1] if lines else 'it wrote no error', 300)}", "See its stderr.")  # fmt: skip
    return json.loads(ended.stdout)
