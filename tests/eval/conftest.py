"""Gold answers of the benchmark as calls, read from its own files."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollhouse.eval.bfcl.tools import tool_name

Calls = list[tuple[str, str]]


def _first(alternatives: list[Any]) -> Any:
    """The first acceptable value; "" among the alternatives only says that the argument may be left out."""
    return next((value for value in alternatives if value != ""), None)


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(item) for item in value]
    if isinstance(value, dict):  # its values are alternatives again, except deep down
        kept = {k: v for k, v in value.items() if not (isinstance(v, list) and v[:1] in ([], [""]))}
        return {key: _value(_first(inner)) if isinstance(inner, list) else inner for key, inner in kept.items()}
    return value


def _calls(truth: list[dict[str, Any]]) -> Calls:
    calls = []
    for call in truth:
        for name, arguments in call.items():
            given = {k: _value(_first(v)) for k, v in arguments.items() if v != [""] and v and (v[0] != "" or v[1:])}
            calls.append((tool_name(name), json.dumps(given)))
    return calls


@pytest.fixture(scope="session")
def gold() -> Callable[[str], dict[str, Calls]]:
    """Category → case id → the calls of its gold answer."""
    spec = importlib.util.find_spec("bfcl_eval")
    assert spec is not None and spec.submodule_search_locations, "make setup installs bfcl-eval"
    data = Path(spec.submodule_search_locations[0]) / "data"

    def load(category: str) -> dict[str, Calls]:
        cases = (data / f"BFCL_v4_{category}.json").read_text().splitlines()
        truths = (data / "possible_answer" / f"BFCL_v4_{category}.json").read_text().splitlines()
        pairs = zip(map(json.loads, cases), map(json.loads, truths), strict=True)
        return {case["id"]: _calls(truth["ground_truth"]) for case, truth in pairs}

    return load
