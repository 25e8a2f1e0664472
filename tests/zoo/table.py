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
    return {name: dict(zip(lines[0][1:], cells, strict=True)) for name, *cells in lines[2:]} if lines else {}


def record(row: str, column: str, cell: str, rows: tuple[str, ...]) -> None:
    """Writes a cell, or fails where the table has another. `rows` are all in their order; those that are gone are left out."""
    table = read()
    if not WRITING:
        assert table.get(row, {}).get(column) == cell, f"docs/models.md has {table.get(row, {}).get(column)!r} for {row}, {column}; `make test-zoo` writes it"  # fmt: skip
        return
    table.setdefault(row, {})[column] = cell
    lines = ["| architecture | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in rows:
        cells = [table.get(name, {}).get(column, "") for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    before, _, after = _block()
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def _block() -> tuple[str, str, str]:
    found = re.fullmatch(f"(.*){BEGIN}\n(.*){END}(.*)", PAGE.read_text(), re.DOTALL)
    assert found is not None, f"{PAGE} has no {BEGIN} … {END}"
    return found[1], found[2], found[3]
