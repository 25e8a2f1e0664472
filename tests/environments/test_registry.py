"""What a recipe's options may not be, by environment."""

from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.environments.registry import load_environment


@pytest.mark.parametrize(
    ("name", "options", "output"),
    [
        ("math", {"n_tasks": 3}, "math takes no option 'n_tasks'"),
        ("workplace", {"size": 3}, "workplace takes no option 'size'"),
        ("workplace-mini", {"size": 2}, "workplace-mini takes no option"),
        ("nemo-gym:http://127.0.0.1:9", {"n_train": 3}, "nemo-gym takes no option 'n_train'"),
        ("math", {"n_train": "many"}, "option n_train of math is 'many': Input should be a valid integer"),
        ("nemo-gym:http://127.0.0.1:9", {"retries": None}, "option retries of nemo-gym is None"),
        ("math", {"judge": 3}, "option judge of math is 3"),
        ("office", {}, "There is no environment 'office'"),
    ],
)
def test_options_that_an_environment_does_not_take_are_named(name: str, options: dict[str, Any], output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        load_environment(name, **options)


def test_options_are_read_as_their_types() -> None:
    assert len(list(load_environment("workplace-mini", n_train="3").tasks("train"))) == 3
