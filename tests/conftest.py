"""Shared by the whole suite: one Ray cluster, one tiny base policy, one vLLM engine, for each of the processes it runs in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from rollhouse.tests.random_model import random_models

# How long an example takes depends on what else runs on the machine.
settings.register_profile("rollhouse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rollhouse")

__all__ = ["random_models"]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Our own Ray cluster, ended with the suite."""
    from rollhouse.policies.engines.cluster import ensure_ray, shutdown_ray

    ensure_ray()
    yield
    shutdown_ray()


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    """The folder of the tiny base policy."""
    from rollhouse.train.tiny import base_policy

    return base_policy()


@pytest.fixture(scope="session")
def engine(ray_session: None, tiny_base: Path) -> Iterator[Any]:
    """The suite's one vLLM engine. A test that needs given weights loads them first: others have swapped them before it.

    `open_vllm` anywhere in the suite takes this engine over for models of the tiny policy's shape.
    """
    from rollhouse.policies.engines.vllm_actor import open_vllm

    handle = open_vllm(tiny_base)
    yield handle
    handle.close()
