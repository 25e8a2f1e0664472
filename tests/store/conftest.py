"""A fresh store for each test."""

import shutil
from pathlib import Path

import pytest
from rollhouse.store.lance_store import LanceStore


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: a copy of it is a store as new as one that is made."""
    return Path(LanceStore.create(tmp_path_factory.mktemp("empty") / "store").uri)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> LanceStore:
    shutil.copytree(empty_store, tmp_path / "store")
    return LanceStore.open(tmp_path / "store")
