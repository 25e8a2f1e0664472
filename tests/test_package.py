"""The wheel holds every module and data file, and the root package hands out its names lazily."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [
    "base",
    "store",
    "queries",
    "interop",
    "policies",
    "environments",
    "collect",
    "serve",
    "transform",
    "eval",
    "train",
    "view",
    "cli",
]
DATA = {".py", ".sql", ".safetensors", ".json", ".jinja", ".yaml", ".typed", ".js", ".html", ".css", ".svg"}


def test_the_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(copy),
    ]
    subprocess.run(build, check=True, capture_output=True)
    inside = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    expected = {
        f"rollhouse/{file.relative_to(copy)}"
        for folder in [*FOLDERS, "configs"]
        for file in (copy / folder).rglob("*")
        if file.is_file()
        and file.suffix in DATA
        and not {"__pycache__", "app"} & set(file.parts)  # view/app holds the TypeScript that view/static is made of
    }
    assert expected - inside == set()
    assert {"rollhouse/__init__.py", "rollhouse/py.typed"} <= inside


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, rollhouse; print([m for m in ('lance', 'pyarrow', 'torch', 'ray', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import rollhouse

    assert all(getattr(rollhouse, name) is not None for name in rollhouse.__all__)
