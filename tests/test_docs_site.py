"""The documentation site is built without a warning, with every page, command and public method."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.system
def test_the_site_is_built(tmp_path: Path) -> None:
    built = subprocess.run([sys.executable, str(ROOT / "docs" / "build.py"), "--out", str(tmp_path / "site")], capture_output=True, text=True)  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path / "site"
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {path.stem for path in site.glob("*.html")} >= pages | {"index", "contents", "changelog", "contributing"}
    assert "rollhouse collect" in (site / "reference" / "commands.html").read_text(encoding="utf-8")
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert "train_grpo" in python and "Rollout" in python
    assert (site / "search" / "search_index.json").is_file()
