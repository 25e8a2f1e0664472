"""`rollhouse report`, as a user types it."""

from pathlib import Path

from rollhouse.cli.main import app
from typer.testing import CliRunner, Result


def rollhouse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_report_on_evaluation_runs(tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    for name, rate in (("perfect", 0), ("half", 0.5)):
        evaluate = ("eval", "env", "--env", "workplace-mini", "--limit", 9, "--run", name, "--mistake-rate", rate)
        assert rollhouse(*evaluate, *store).exit_code == 0
    out = tmp_path / "report.html"
    result = rollhouse("report", "perfect", "half", "--out", out, "--title", "Two scripts", *store)
    assert result.exit_code == 0, result.output
    html = out.read_text()
    assert "<h1>Two scripts</h1>" in html and "Pass rate per stage" in html
    assert "Lineage" in html and "Sample rollouts" in html


def test_an_unknown_run_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    assert rollhouse("eval", "env", "--env", "workplace-mini", "--limit", 1, "--run", "known", *store).exit_code == 0
    result = rollhouse("report", "knwon", "--out", tmp_path / "r.html", *store)
    assert result.exit_code == 2 and "Did you mean known" in result.stderr
    assert not (tmp_path / "r.html").exists()


def test_an_unknown_store(tmp_path: Path) -> None:
    result = rollhouse("report", "any", "--store", tmp_path / "none")
    assert result.exit_code == 2 and "no store" in result.stderr
