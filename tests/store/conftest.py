"""A fresh house for each test."""

import shutil
from pathlib import Path

import pytest
from rollhouse.store.house import House


@pytest.fixture(scope="session")
def empty_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: a copy of it is a house as new as one that is made."""
    return Path(House.create(tmp_path_factory.mktemp("empty") / "house").uri)


@pytest.fixture
def house(empty_house: Path, tmp_path: Path) -> House:
    shutil.copytree(empty_house, tmp_path / "house")
    return House.open(tmp_path / "house")
