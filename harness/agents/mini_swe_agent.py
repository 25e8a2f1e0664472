"""mini-swe-agent (package mini-swe-agent): a coding agent with a shell, in a folder of its own."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...base.errors import ConfigError
from ...base.packages import need
from ...base.yaml_text import load_yaml_file
from ...store.task import Task
from ..client import HarnessClient
from .prompts import request_of

os.environ.setdefault("MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT", "1")  # a call that the run refuses is refused again
os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
need("minisweagent.models.litellm_model")
_SANDBOXES = {
    "bubblewrap": ("minisweagent.environments.extra.bubblewrap", "BubblewrapEnvironment"),
    "docker": ("minisweagent.environments.docker", "DockerEnvironment"),
    "local": ("minisweagent.environments.local", "LocalEnvironment"),
}


def run(
    task: Task,
    client: HarnessClient,
    sandbox: str = "bubblewrap",
    config: str = "mini.yaml",
    max_turns: int = 50,
    check_s: float = 60.0,
    **settings: Any,
) -> float | None:
    """Plays one task.

    `task.extra["files"]` (name → text) is written to the folder first. Where `task.ground_truth` is a mapping with `check`, its `files` are written after
    the agent has ended, and the reward is 1 when the shell command `check` exits with 0 within `check_s` seconds, else 0; elsewhere the environment judges.

    Args:
        sandbox: Where the agent's commands run: bubblewrap, docker, or local, which gives them the rights of this process.
        config: A file of mini-swe-agent's folder `config`.
        settings: Of the sandbox (`image`, `timeout`, …).
    """
    if sandbox not in _SANDBOXES:
        raise ConfigError(f"There is no sandbox {sandbox!r}.", f"Use {', '.join(_SANDBOXES)}.")
    folder = Path(os.environ["ROLLHOUSE_FOLDER"]) / "work"
    folder.mkdir()
    _write(folder, task.extra.get("files"))
    chosen = load_yaml_file(Path(str(need("minisweagent.config").__file__)).parent / config)
    module, name = _SANDBOXES[sandbox]
    place = getattr(need(module), name)(**{**chosen.get("environment", {}), "cwd": str(folder), **settings})
    model = need("minisweagent.models.litellm_model").LitellmModel(
        **{
            **chosen.get("model", {}),
            "model_name": f"openai/{client.model}",
            "model_kwargs": {
                **chosen.get("model", {}).get("model_kwargs", {}),
                "api_base": client.base_url,
                "api_key": client.api_key,
                "num_retries": 0,
            },
            "cost_tracking": "ignore_errors",
        }
    )
    agent_class = need("minisweagent.agents.default").DefaultAgent
    known = need("minisweagent.agents.default").AgentConfig.model_fields
    options = {name: value for name, value in chosen.get("agent", {}).items() if name in known}
    agent = agent_class(model, place, **{**options, "step_limit": max_turns, "cost_limit": 0.0})
    print("ended with", agent.run(request_of(task)).get("exit_status"))
    return _checked(folder, task.ground_truth, check_s)


def _checked(folder: Path, truth: Any, limit_s: float) -> float | None:
    """1 or 0 by the check of the ground truth; None without one."""
    if not isinstance(truth, Mapping) or "check" not in truth:
        return None
    _write(folder, truth.get("files"))
    try:
        ended = subprocess.run(truth["check"], shell=True, cwd=folder, timeout=limit_s, capture_output=True)
    except subprocess.TimeoutExpired:
        return 0.0
    return float(ended.returncode == 0)


def _write(folder: Path, files: Any) -> None:
    """Writes name → text below the folder. Raises ConfigError for a name outside it."""
    for name, text in (files or {}).items():
        file = (folder / name).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise ConfigError(f"The task's file {name!r} is outside its folder.", "Correct the task.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
