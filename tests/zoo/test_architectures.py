"""Every architecture of docs/models.md: the learner, adapters, checkpoints and the torch engine against plain transformers."""

from pathlib import Path

import pytest

from . import table
from .architectures import ARCHITECTURES, Architecture
from .checks import QUICK

ROWS = tuple(architecture.name for architecture in ARCHITECTURES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def folder_of(models: Path, architecture: Architecture) -> Path:
    return architecture.build(models / architecture.name.replace(" ", "-").replace(",", ""))


@pytest.mark.parametrize("check", QUICK)
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_quick(architecture: Architecture, check: str, models: Path, tmp_path: Path) -> None:
    cell = QUICK[check](folder_of(models, architecture), tmp_path)
    table.record(architecture.name, check, cell or table.PASSED, ROWS)
