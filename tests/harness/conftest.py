"""The tiny policy behind a torch engine, and tasks of the small office."""

from pathlib import Path

import pytest
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.token_policy import TokenPolicy


@pytest.fixture(scope="package")
def torch_policy(tiny_base: Path) -> TokenPolicy:
    """The tiny policy."""
    return TokenPolicy(TorchEngine(tiny_base, 1024), ChatFormat.of(tiny_base), "tiny")
