"""Gold answers of the benchmark as calls, read from its own files."""

import ast
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


def _calls(truth: list[dict[str, Any]], named: Callable[[str], str] = tool_name) -> Calls:
    calls = []
    for call in truth:
        for name, arguments in call.items():
            given = {k: _value(_first(v)) for k, v in arguments.items() if v != [""] and v and (v[0] != "" or v[1:])}
            calls.append((named(name), json.dumps(given)))
    return calls


def as_text(calls: Calls) -> str:
    """Calls as the benchmark's prompt asks for them: `[name(key=literal), …]`."""
    return "[" + ", ".join(f"{name}({_arguments(text)})" for name, text in calls) + "]"


def _arguments(text: str) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in json.loads(text).items())


def _data() -> Path:
    spec = importlib.util.find_spec("bfcl_eval")
    assert spec is not None and spec.submodule_search_locations, "make setup installs bfcl-eval"
    return Path(spec.submodule_search_locations[0]) / "data"


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def gold() -> Callable[..., dict[str, Calls]]:
    """Category → case id → the calls of its gold answer; with `dotted`, by the names that a prompt gives the functions."""

    def load(category: str, dotted: bool = False) -> dict[str, Calls]:
        cases = _lines(_data() / f"BFCL_v4_{category}.json")
        truths = _lines(_data() / "possible_answer" / f"BFCL_v4_{category}.json")
        named = str if dotted else tool_name
        return {case["id"]: _calls(truth["ground_truth"], named) for case, truth in zip(cases, truths, strict=True)}

    return load


@pytest.fixture(scope="session")
def gold_turns() -> Callable[[str], dict[str, list[Calls]]]:
    """Multi-turn category → case id → the calls of each turn's gold answer."""

    def load(category: str) -> dict[str, list[Calls]]:
        truths = _lines(_data() / "possible_answer" / f"BFCL_v4_{category}.json")
        return {truth["id"]: [[_parsed(call) for call in turn] for turn in truth["ground_truth"]] for truth in truths}

    documents = {doc["name"]: doc for file in (_data() / "multi_turn_func_doc").iterdir() for doc in _lines(file)}

    def _parsed(call: str) -> tuple[str, str]:
        node = ast.parse(call, mode="eval").body
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        names = list(documents[node.func.id]["parameters"]["properties"])
        given = {name: ast.literal_eval(value) for name, value in zip(names, node.args, strict=False)}
        given |= {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in node.keywords}
        return node.func.id, json.dumps(given)

    return load


@pytest.fixture(scope="session")
def memory_gold() -> dict[str, str]:
    """Text of a question of the memory categories → a sentence with its first gold answer."""
    cases = _lines(_data() / "BFCL_v4_memory.json")
    truths = _lines(_data() / "possible_answer" / "BFCL_v4_memory.json")
    pairs = zip(cases, truths, strict=True)
    return {case["question"][0][-1]["content"]: f"It is {truth['ground_truth'][0]}." for case, truth in pairs}
