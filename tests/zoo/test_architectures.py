"""Every architecture of docs/models.md: the learner, adapters, checkpoints and the torch engine against plain transformers."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rollhouse.train.grpo.learner.learner import Learner

from . import table
from .architectures import ARCHITECTURES, Architecture
from .checks import QUICK

ROWS = tuple(architecture.name for architecture in ARCHITECTURES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def folder_of(models: Path, architecture: Architecture) -> Path:
    return architecture.build(models / architecture.name.replace(" ", "-").replace(",", ""))


DENSE = (
    "mistral",
    "qwen2",
    "phi3",
    "olmo2",
    "olmo3",
    "smollm3",
    "ernie4_5",
    "exaone4",
    "hunyuan_v1_dense",
    "glm4",
    "granite",
)
"""Kinds whose weights have no form of their own: what is saved and pushed is checked for them by `make test-system`."""
LATER = ("adapters", "checkpoint", "torch engine")


def quick_cases() -> list[object]:
    def marks(architecture: Architecture, check: str) -> list[pytest.MarkDecorator]:
        return [pytest.mark.system] if architecture.kind in DENSE and check in LATER else []

    return [
        pytest.param(a, check, marks=marks(a, check), id=f"{a.name}-{check}") for a in ARCHITECTURES for check in QUICK
    ]


@pytest.mark.parametrize(("architecture", "check"), quick_cases())
def test_quick(architecture: Architecture, check: str, models: Path, tmp_path: Path) -> None:
    cell = QUICK[check](folder_of(models, architecture), tmp_path)
    table.record(architecture.name, check, cell or table.PASSED, ROWS)


EXEMPLARY = ("Nemotron-H (Nano 9B v2)", "Qwen 3 MoE", "DeepSeek V3", "Gemma 2")
"""One for each thing that a push can do wrong; `make test-zoo` opens vLLM for all."""


@pytest.fixture(scope="module")
def two_ranks(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """By architecture: its logprobs after a step of two ranks, or an error."""
    scratch = tmp_path_factory.mktemp("ranks")
    folders = {architecture.name: folder_of(models, architecture) for architecture in ARCHITECTURES}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = min(free.getsockname()[1], 60_000)
    command = [sys.executable, str(Path(__file__).with_name("two_ranks.py"))]
    arguments = [str(port), str(scratch), *map(str, folders.values())]
    ranks = [subprocess.Popen([*command, str(rank), *arguments]) for rank in (0, 1)]
    for process in ranks:
        process.wait(timeout=900)
    found = {name: json.loads((scratch / f"{folder.name}.json").read_text()) for name, folder in folders.items()}
    return {"scratch": scratch, **found}


@pytest.mark.system
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_two_ranks(architecture: Architecture, models: Path, two_ranks: dict, tmp_path: Path) -> None:
    from .checks import assert_close, largest_gap
    from .two_ranks import settings, taken

    found, folder = two_ranks[architecture.name], folder_of(models, architecture)
    assert isinstance(found, list), found
    one = taken(Learner(str(folder), settings(folder)), tmp_path / "one")
    assert_close(max(abs(a - b) for x, y in zip(found, one, strict=True) for a, b in zip(x, y, strict=True)), 1e-3)
    assert_close(largest_gap(two_ranks["scratch"] / folder.name, found), 1e-4)
    table.record(architecture.name, "two ranks", table.PASSED, ROWS)


@pytest.mark.system
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_on_vllm(architecture: Architecture, models: Path, tmp_path: Path) -> None:
    if not table.WRITING and architecture.name not in EXEMPLARY:
        pytest.skip("`make test-zoo` opens vLLM for all architectures")
    command = [sys.executable, str(Path(__file__).with_name("on_vllm.py")), str(folder_of(models, architecture)), str(tmp_path), architecture.dtype, str(int(architecture.apart))]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    for column in ("vLLM and push", "GRPO"):
        reason = architecture.limits.get(column)
        if reason is None:
            assert column in done.stdout, done.stderr[-3000:]
        else:
            assert column not in done.stdout and reason in done.stderr, done.stderr[-3000:]
        table.record(architecture.name, column, reason or table.PASSED, ROWS)
