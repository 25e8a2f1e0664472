"""Recipes and overrides become one checked configuration."""

from pathlib import Path

import pytest
from pydantic import BaseModel, Field
from rollhouse.base.errors import ConfigError
from rollhouse.base.recipes import resolve, to_yaml


class Inner(BaseModel):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Outer(BaseModel):
    name: str
    steps: int = Field(10, ge=1)
    inner: Inner = Inner()
    extra: dict = Field(default_factory=dict)
    maybe: Inner | None = None


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_overrides_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    path = recipe(tmp_path, "name: a\nsteps: 5\ninner: {lr: 0.1}\n")
    config = resolve(Outer, path, ["steps=7", "+inner.betas=[0.5, 0.6]", "++extra.any=thing", "maybe.lr=2"])
    assert (config.name, config.steps, config.inner.lr, config.inner.betas) == ("a", 7, 0.1, (0.5, 0.6))
    assert config.extra == {"any": "thing"} and config.maybe == Inner(lr=2)


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    path = recipe(
        tmp_path, "name: a\nextra: {parts: [{weight: 1, name: x}, {weight: 1}]}\ninner: {betas: [0.1, 0.2]}\n"
    )
    config = resolve(Outer, path, ["extra.parts.0.weight=5", "extra.parts.1={weight: 2}", "inner.betas.1=0.3"])
    assert config.extra == {"parts": [{"weight": 5, "name": "x"}, {"weight": 2}]} and config.inner.betas == (0.1, 0.3)
    for wrong in ("extra.parts.2.weight=1", "extra.parts.weight=1"):
        with pytest.raises(ConfigError, match="names no setting"):
            resolve(Outer, path, [wrong])


def test_what_is_printed_resolves_to_itself(tmp_path: Path) -> None:
    config = resolve(Outer, None, ["name=b", "inner.lr=0.2"])
    assert resolve(Outer, recipe(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["name=a", "inner.rl=1"], "inner.lr"),
        (["name=a", "maybe.beta=1"], "maybe.betas"),
        (["name=a", "stepz=1"], "steps"),
        (["name=a", "steps=0"], "greater than or equal"),
        (["name=a", "inner.lr=fast"], "inner.lr"),
        ([], "name is not set"),
        (["name"], "not an override"),
        (["name=[1"], "not YAML"),
    ],
)
def test_a_wrong_setting_is_named(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve(Outer, None, overrides)
    assert expected in str(raised.value)


def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for text in ("a: [", "- 1"):
        with pytest.raises(ConfigError, match=r"recipe\.yaml"):
            resolve(Outer, recipe(tmp_path, text))
    with pytest.raises(ConfigError, match="no recipe 'absent'"):
        resolve(Outer, "absent")
