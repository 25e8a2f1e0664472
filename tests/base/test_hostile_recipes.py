"""Recipes from strangers: code that they name, aliases that explode, values that no constructor takes."""

import resource
from pathlib import Path
from typing import Any

import pytest
import rollhouse as rh
from pydantic import BaseModel
from rollhouse.base.errors import ConfigError
from rollhouse.base.recipes import code_named, read_recipe, refuse_code, resolve
from rollhouse.base.yaml_text import load_yaml
from rollhouse.cli.main import app
from rollhouse.store.runs import start_run
from typer.testing import CliRunner

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


class Loose(BaseModel):
    name: Any = None
    extra: dict[str, Any] = {}


def recipe(folder: Path, text: str) -> Path:
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "a: &a {b: *a}"])
def test_aliases_do_not_explode(tmp_path: Path, text: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=r"expands to more than 200,000 values"):
        read_recipe(recipe(tmp_path, text))
    result = CliRunner().invoke(app, ["collect", "--dry-run", "--config", str(tmp_path / "recipe.yaml")])
    assert result.exit_code == 2 and "expands" in result.stderr
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, "kilobytes"


def test_few_aliases_are_fine(tmp_path: Path) -> None:
    assert read_recipe(recipe(tmp_path, "a: &a [1, 2]\nb: *a\n")) == {"a": [1, 2], "b": [1, 2]}


ODD = ["2001-13-45", "!!int x", "!!float x", "!!timestamp x", "!!binary x", "2001-01-01 25:61:61", "{[a]: b}", "? {a: b}\n: c", "!!python/object:os.system x", "\x00", "[" * 5000, "&a", "*a", "%YAML 9", "!!set x", "!!omap [a]", "'\ud800'", "0b", "1:99999999999999:2", "9" * 5000]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_odd_values_are_refused_in_a_sentence(text: str) -> None:
    try:
        resolve(Loose, overrides=[f"name={text}"])
        load_yaml(text, "x")
    except ConfigError as error:
        assert "\n" not in error.message and len(error.message) < 800
    result = CliRunner().invoke(app, ["collect", "--env", "workplace-mini", "--engine", "scripted", "--dry-run", f"policy.generation.temperature={text}"])  # fmt: skip
    assert result.exit_code == 2 and "Traceback" not in result.output and result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "text",
    [
        "function: evil.py:f",
        "function: |\n  def f(rows):\n    return rows\n",
        "environment: {name: evil.py}",
        "environment: {name: 'evil:Environment'}",
        "environment: {mixture: [{name: workplace-mini}, {name: ./evil.py:E}]}",
        "policy: {engine: 'evil:engine'}",
        "loss_fn: {custom: evil.py:loss}",
    ],
)
def test_code_that_a_file_names_needs_a_flag(tmp_path: Path, text: str) -> None:
    path = recipe(tmp_path, text)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert len(list(code_named(read_recipe(path)))) == 1
    for command in (["collect"], ["dataset", "build", "sft", "x", "--from", "s1"], ["train", "grpo"]):
        result = CliRunner().invoke(app, [*command, "--config", str(path), "--store", str(tmp_path / "s")])
        assert result.exit_code == 2 and "names Python code" in result.stderr and "--allow-code" in result.stderr
    assert not (tmp_path / "ran").exists()
    refuse_code(path, allowed=True)


@pytest.mark.parametrize(("kind", "command"), [("grpo", ["train", "replay"]), ("sft", ["runs", "reproduce"]), ("dpo", ["runs", "reproduce"])])  # fmt: skip
def test_code_that_a_stored_run_names_needs_a_flag(tmp_path: Path, kind: str, command: list[str]) -> None:
    own = f"{tmp_path / 'evil.py'}:f"
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    store = rh.open(tmp_path / "s")
    settings: dict[str, Any] = {
        "model_hash": "0" * 64,
        "policy": {"model_name": str(tmp_path / "none"), "chat": {"tool_parser": own}},
    }
    settings |= {"loss_fn": {"custom": own}, "dataset": "d@1"} if kind == "grpo" else {}
    with start_run(store, kind, "theirs", settings):
        pass
    again = [*command, "theirs", "--store", store.uri]
    refused = CliRunner().invoke(app, again)
    assert refused.exit_code == 2 and "names Python code" in refused.stderr and "--allow-code" in refused.stderr
    with pytest.raises(ConfigError, match="names Python code"):
        store.replay("theirs") if kind == "grpo" else store.reproduce("theirs")
    ways = [["--allow-code"], ["loss_fn.custom=null"], [f"loss_fn.custom={own}"], [f"loss_fn={{custom: '{own}'}}"]]
    for way in ways if kind == "grpo" else ways[:1]:
        assert "names Python code" not in CliRunner().invoke(app, [*again, *way]).stderr, (
            "allowed, or named by the user"
        )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["checkpointing: {metric_name: 'val:accuracy'}", "policy: {engine: 'openai:http://127.0.0.1:1/v1'}", "environment: {name: 'verifiers:wordle'}"])  # fmt: skip
def test_other_names_with_a_colon_are_no_code(tmp_path: Path, text: str) -> None:
    refuse_code(recipe(tmp_path, text), allowed=False)


def test_shipped_recipes_name_no_code() -> None:
    from rollhouse.base.recipes import RECIPES

    for path in RECIPES.glob("*.yaml"):
        assert not list(code_named(read_recipe(path))), path
