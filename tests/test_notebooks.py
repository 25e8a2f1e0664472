"""The notebooks under examples/ run from an empty folder, and what they store on disk has no outputs."""

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.ipynb"))


def test_there_are_two() -> None:
    assert [path.name for path in NOTEBOOKS] == ["asking_history.ipynb", "the_loop.ipynb"]


def marked(path: Path) -> Any:
    """The loop trains with GRPO on vLLM: it runs in `make test-system`."""
    return pytest.param(path, marks=pytest.mark.system if path.stem == "the_loop" else ())


@pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS], ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROLLHOUSE_STORE", raising=False)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "text/html" in output.get("data", {})
    ]
    assert shown, "a notebook shows tables, not only text"
    assert os.listdir(tmp_path) == ["rollouts"], "everything it made is in its store"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
