"""The README and the pages under docs/: links lead somewhere, and every command they show is one that rollhouse takes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from rollhouse.cli.main import app
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples" / "real_model.md",
    ROOT / "examples" / "train_your_agent.md",
]


def shown_commands() -> list[tuple[str, str]]:
    """(page, command) of every line in a shell block that starts with `rollhouse`, continued lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|console|bash)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.strip().removeprefix("$ ")
                if command.startswith("rollhouse ") and "…" not in command:
                    found.append((page.name, command))
    return found


@pytest.mark.parametrize(("page", "command"), shown_commands())
def test_a_command_shown_is_one_that_rollhouse_takes(page: str, command: str) -> None:
    words = shlex.split(command.split(" > ")[0].split(" | ")[0], comments=True)[1:]
    node: Any = get_command(app)
    while hasattr(node, "commands") and words:
        assert words[0] in node.commands, f"{page}: there is no `{words[0]}` in `{command}`"
        node = node.commands[words.pop(0)]
    node.make_context("rollhouse", words, resilient_parsing=False)


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """(line, source) of every Python block of a page, but for those marked `python no-run`: they need a GPU, a hub or a server."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def marked(page: Path) -> Any:
    """A page whose blocks train with GRPO takes half a minute: it runs in `make test-system`."""
    return pytest.param(page, marks=pytest.mark.system if page.name == "README.md" else ())


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if python_blocks(page)], ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROLLHOUSE_STORE", raising=False)
    namespace: dict[str, Any] = {"__name__": page.stem}
    for line, source in python_blocks(page):
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s:]*)#([^)\s]+)\)", page.read_text())
    lost = [f"{file}#{anchor}" for file, anchor in links if anchor not in anchors(page.parent / file if file else page)]
    assert lost == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [
        page.name
        for page in PAGES[2:]
        if page.parent.name == "docs" and page.name != "index.md" and f"({page.name})" not in index
    ] == []


def test_every_command_is_in_the_reference() -> None:
    reference = (ROOT / "README.md").read_text().partition("## Reference")[2].partition("\n## ")[0]

    def leaves(command: Any, path: str = "") -> list[str]:
        below = getattr(command, "commands", None)
        return (
            [path]
            if below is None
            else [leaf for name in below for leaf in leaves(below[name], f"{path} {name}".strip())]
        )

    assert [
        leaf for leaf in leaves(get_command(app)) if f"`{leaf}`" not in reference and f"`{leaf} " not in reference
    ] == []
