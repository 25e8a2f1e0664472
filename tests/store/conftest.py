"""A fresh house for each test."""

from pathlib import Path

import pytest
from rollhouse.store.house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House.create(tmp_path / "house")
