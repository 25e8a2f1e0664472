"""Where GRPO plays its prompts: the environment they name, or the one of the configuration when it is the same."""

from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.environments.registry import load_environment
from rollhouse.train.grpo.checks import open_environment
from rollhouse.train.grpo.config import GrpoConfig

DESK = str(Path(__file__).resolve().parents[3] / "examples" / "library_desk.py")


def config(**environment: object) -> GrpoConfig:
    return GrpoConfig.model_validate({"dataset": "d", "policy": {"model_name": "m"}, "environment": environment})


def test_a_file_of_ones_own_is_where_its_tasks_are_played() -> None:
    tasks = list(load_environment(DESK).tasks("validation"))
    assert open_environment(config(name=DESK), tasks).name == "library-desk"
    with pytest.raises(ConfigError, match="There is no environment 'library-desk'"):
        open_environment(config(), tasks)


def test_other_environments_are_refused() -> None:
    mini = list(load_environment("workplace-mini").tasks("validation"))
    assert open_environment(config(), mini).name == open_environment(config(name="workplace-mini"), mini).name
    with pytest.raises(ConfigError, match=r"belong to workplace-mini; .* is .*library_desk\.py \(library-desk\)"):
        open_environment(config(name=DESK), mini)
    with pytest.raises(ConfigError, match="There is no environment 'library-desk'"):
        open_environment(config(), [*mini, *load_environment(DESK).tasks("test")])
