"""A folder imports only folders below it, and no two modules import each other at import time."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    "base",
    "store",
    "queries",
    "interop",
    "policies",
    "environments",
    "collect",
    "serve",
    "harness",
    "transform",
    "eval",
    "train",
    "view",
    "cli",
]


def modules() -> dict[str, Path]:
    """Dotted name below the package → file, for every module of the layers."""
    found = {}
    for layer in LAYERS:
        for file in sorted((ROOT / layer).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = file
    return found


def imports(name: str, file: Path, *, top_level_only: bool) -> set[str]:
    """Dotted names below the package that a module imports."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(file.read_text())
    nodes = runtime_nodes(tree) if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            found |= {".".join([*base, alias.name]) for alias in node.names} | {".".join(base)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rollhouse."):
            base = (node.module or "").split(".")[1:]
            found |= {".".join([*base, alias.name]) for alias in node.names} | {".".join(base)}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("rollhouse.") for alias in node.names if alias.name.startswith("rollhouse.")
            }
    return found


def runtime_nodes(tree: ast.Module) -> list[ast.AST]:
    """Statements that run at import time: not inside functions, not under TYPE_CHECKING."""
    found: list[ast.AST] = []
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found.append(node)
        pending.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_folder_imports_only_lower_ones(layer: str) -> None:
    higher = set(LAYERS[LAYERS.index(layer) + 1 :])
    wrong = {
        f"{name} imports {target}"
        for name, file in modules().items()
        if name.split(".")[0] == layer
        for target in imports(name, file, top_level_only=False)
        if target.split(".")[0] in higher
    }
    assert not wrong, sorted(wrong)


def test_no_import_cycle() -> None:
    """Late imports and those under TYPE_CHECKING count: two modules that need each other are one thing in two files."""
    known = modules()
    graph = {name: imports(name, file, top_level_only=False) & known.keys() - {name} for name, file in known.items()}
    # A package's __init__ is imported with each of its modules; only what it imports itself is an edge.
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as cycle:
        pytest.fail(f"import cycle: {' -> '.join(cycle.args[1])}")


def test_the_walk_sees_the_real_imports() -> None:
    found = imports("policies.types", ROOT / "policies" / "types.py", top_level_only=True)
    assert "store.messages" in found and "store.messages.VersionSpan" in found


def test_public_classes_have_names_of_their_own() -> None:
    places: dict[str, list[str]] = {}
    for name, file in modules().items():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
