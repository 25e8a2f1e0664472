"""Cases of evaluation sets outside the store, such as BFCL, for datasets that must not contain them."""

import ast
import json
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from ...transform.references import OWN_SPLITS, Reference, file_references, signature, user_text, value_key
from .categories import FORMAT_SENSITIVITY, MEMORY, categories_named
from .checker import require_bfcl

Call = tuple[str, dict[str, tuple[str, ...]]]


def evaluation_cases(sets: Iterable[str]) -> list[Reference]:
    """The cases of the named evaluation sets outside the store.

    Args:
        sets: `bfcl` or `bfcl:CATEGORY,…`, or a JSONL file. `validation` and `test` are skipped, because their cases are in the store.

    Raises:
        MissingExtra: A set is `bfcl`, and bfcl-eval is not installed.
        ConfigError: An unknown category.
        FormatError: A file that does not exist or has a line without a text.
    """
    found: list[Reference] = []
    for name in sets:
        source, _, categories = name.partition(":")
        if source == "bfcl":
            found += bfcl_references(categories.split(",") if categories else None)
        elif name not in OWN_SPLITS:
            found += file_references(name)
    return found


def bfcl_references(categories: list[str] | None = None) -> Iterator[Reference]:
    """The cases of some categories or groups (None: all that can be run). Raises MissingExtra without bfcl-eval, ConfigError for an unknown name."""
    require_bfcl()
    spec = find_spec("bfcl_eval")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "data"
    chosen = categories_named(categories or ["all"])
    # The memory categories share their questions, and the sessions before them.
    for name in dict.fromkeys("memory" if category in MEMORY else category for category in chosen):
        if name == FORMAT_SENSITIVITY:
            continue
        answers = {row["id"]: row["ground_truth"] for row in _rows(folder / "possible_answer" / f"BFCL_v4_{name}.json")}
        sessions = sorted((folder / "memory_prereq_conversation").glob("*.json")) if name == "memory" else ()
        for row in chain.from_iterable(map(_rows, (folder / f"BFCL_v4_{name}.json", *sessions))):
            text = "\n".join(user_text(turn) for turn in row["question"])
            tools = tuple(signature(function) for function in row.get("function") or ())
            yield Reference("bfcl", row["id"], text, tools, tuple(_calls(answers.get(row["id"]) or [])))


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _calls(truth: list[Any]) -> Iterator[Call]:
    """The true calls: `{function: {argument: [accepted values]}}`, or Python text in several turns."""
    for entry in truth:
        if isinstance(entry, list):
            yield from _calls(entry)
        elif isinstance(entry, str):
            yield from _written(entry)
        else:
            for name, arguments in entry.items():
                # An empty text among the accepted values means that the argument is optional.
                needed = {key: tuple(map(value_key, values)) for key, values in arguments.items() if "" not in values}
                if needed:
                    yield name.lower(), needed


def _written(text: str) -> Iterator[Call]:
    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and call.keywords:
            arguments = {word.arg: (value_key(ast.literal_eval(word.value)),) for word in call.keywords if word.arg}
            yield ast.unparse(call.func).lower(), arguments
    except (SyntaxError, ValueError):
        return
