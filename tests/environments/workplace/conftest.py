"""A small invented office, and where the real data of the conformance tests is."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace.toolbox import call_tool
from rollhouse.tests.office import TASKS, write_tables


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="session")
def tasks_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    return path


@pytest.fixture(scope="session")
def environment(tables: Path, tasks_file: Path) -> WorkplaceEnvironment:
    return WorkplaceEnvironment(tables, tasks_file)


@pytest.fixture
def call(environment: WorkplaceEnvironment) -> Any:
    """`call(tool, **arguments)` on one fresh office; gives what the tool's `output` holds."""
    office = environment.office.copy()

    def run(tool: str, /, **arguments: Any) -> Any:
        return json.loads(call_tool(office, tool, arguments).text)["output"]

    return run


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The folder of the real Workplace data, beside the checkout or where $ROLLHOUSE_CONFORMANCE_DATA says."""
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("ROLLHOUSE_CONFORMANCE_DATA") or beside) / "workplace"
    if not folder.is_dir():
        pytest.skip(f"no conformance data at {folder}; set ROLLHOUSE_CONFORMANCE_DATA")
    return folder
