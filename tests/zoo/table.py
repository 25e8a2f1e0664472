"""The table of docs/models.md: `make test-zoo` writes it, the tests compare what they find with it."""

import os
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- architectures -->", "<!-- end of architectures -->"
COLUMNS = ("logprobs", "gradient", "shared prompts", "adapters", "checkpoint", "torch engine", "two ranks", "vLLM and push", "GRPO")  # fmt: skip
WRITING = bool(os.environ.get("ROLLHOUSE_WRITE_ZOO"))
PASSED = "✔"


def read() -> dict[str, dict[str, str]]:
    """The cells by row and column."""
    block = _block()[1]
    lines = [
        [cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines() if line.startswith("|")
    ]
    cells_of = {names: dict(zip(lines[0][1:], cells, strict=True)) for names, *cells in lines[2:]} if lines else {}
    return {name: dict(cells) for names, cells in cells_of.items() for name in names.split("; ")}


def record(row: str, column: str, cell: str, rows: tuple[str, ...]) -> None:
    """Writes a cell, or fails where the table has another. `rows` are all in their order; those that are gone are left out."""
    table = read()
    if not WRITING:
        assert table.get(row, {}).get(column) == cell, f"docs/models.md has {table.get(row, {}).get(column)!r} for {row}, {column}; `make test-zoo` writes it"  # fmt: skip
        return
    table.setdefault(row, {})[column] = cell
    before, _, after = _block()
    PAGE.write_text(f"{before}{BEGIN}\n{_markdown(table, rows)}\n{END}{after}")


def _markdown(table: dict[str, dict[str, str]], rows: tuple[str, ...]) -> str:
    """The table, with one line for all rows of the same cells."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name in rows:
        names.setdefault(tuple(table.get(name, {}).get(column, "") for column in COLUMNS), []).append(name)
    lines = [f"| architectures | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {'; '.join(same)} | {' | '.join(cells)} |" for cells, same in names.items()]
    return "\n".join(lines)


def _block() -> tuple[str, str, str]:
    found = re.fullmatch(f"(.*){BEGIN}\n(.*){END}(.*)", PAGE.read_text(), re.DOTALL)
    assert found is not None, f"{PAGE} has no {BEGIN} … {END}"
    return found[1], found[2], found[3]
