"""Builds the documentation site: the pages of this folder, the README, the examples, and the reference of commands and of Python from the code.

    python docs/build.py [--out site]

Needs the extra `docs`. Warnings, such as a link that leads nowhere, end the build with 1. The site needs no network: fonts, search and scripts are its own.
"""

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
# Classes and functions of the reference, in its order; all are names of the package.
PUBLIC = ("open", "Store", "Rollout", "Prompt", "Task", "Message", "ToolCall", "Score", "RollhouseError")


def main() -> int:
    """Returns the exit code of mkdocs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "site")
    out = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pages = placed()
        for source, target in pages.items():
            place = work / "pages" / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.endswith(".md"):
                place.write_text(relinked((ROOT / source).read_text(encoding="utf-8"), source, pages), encoding="utf-8")
            else:
                shutil.copyfile(ROOT / source, place)
        write_reference(work)
        (work / "mkdocs.yml").write_text(yaml.safe_dump(configuration(work), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(work / "mkdocs.yml"), "-d", str(out)]  # fmt: skip
        return subprocess.run(
            command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
        ).returncode


def placed() -> dict[str, str]:
    """Path in the repository → path in the site, of every file that the site holds."""
    found = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "LICENSE": "LICENSE", "docs/index.md": "contents.md"}  # fmt: skip
    listed = subprocess.run(["git", "ls-files", "docs", "examples", "benchmarks/learning.md"], cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    for path in listed.stdout.split():
        if path != "docs/build.py":
            found.setdefault(path, path.removeprefix("docs/"))
    return found


def relinked(text: str, source: str, pages: dict[str, str]) -> str:
    """The page with its links as they are in the site. Code blocks stay as they are."""

    def one(match: re.Match[str]) -> str:
        target = match[2]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path not in pages:
            raise SystemExit(f"docs: {source} links to {target}, which is not part of the site.")
        return match[1] + posixpath.relpath(pages[path], posixpath.dirname(pages[source]) or ".") + match[3]

    parts = _FENCE.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(one, part) for part in parts)


def write_reference(work: Path) -> None:
    """The commands as typer documents them, and the public names as mkdocstrings does."""
    folder = work / "pages" / "reference"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "typer", "rollhouse.cli.main", "utils", "docs", "--name", "rollhouse", "--title", "Commands"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"docs: the commands cannot be documented: {done.stderr.strip()[-500:]}")
    # A tag in a help text would be HTML here.
    commands = "".join(
        part if part.startswith("```") else part.replace("<", "&lt;") for part in _FENCE.split(done.stdout)
    )
    (folder / "commands.md").write_text(commands, encoding="utf-8")
    package = work / "packages" / "rollhouse"
    package.mkdir(parents=True)
    for name in ("__init__.py", "api.py", "api_options.py", "base", "store", "queries"):
        (package / name).symlink_to(ROOT / name)  # not the whole checkout, which holds an environment and tests
    names = [_where(name) for name in PUBLIC]
    python = [
        "# Python",
        "",
        "`import rollhouse as rh`. Every method of `Store` that has a command takes its options as keywords.",
        "",
    ]
    (folder / "python.md").write_text("\n".join([*python, *(f"::: {name}" for name in names), ""]), encoding="utf-8")


def _where(name: str) -> str:
    """The module of a public name, which the package imports when it is used."""
    import rollhouse

    found: Any = getattr(rollhouse, name)
    return f"{found.__module__}.{found.__qualname__}"


def navigation() -> Iterator[dict[str, Any]]:
    """The sections of docs/index.md with their pages, and what the site adds."""
    yield {"rollhouse": "index.md"}
    sections: dict[str, list[Any]] = {}
    for line in (ROOT / "docs" / "index.md").read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"\*\*(.+)\*\*", line)
        if heading:
            sections[heading[1]] = []
        elif sections:
            names = re.findall(r"\[([^\]]+)\]\(([^)#]+\.md)\)", line)
            list(sections.values())[-1].extend({title: posixpath.normpath(page)} for title, page in names)
    sections["Reference"] += [{"commands": "reference/commands.md"}, {"Python": "reference/python.md"}]
    for title, entries in sections.items():
        yield {title: [{name: page.removeprefix("../")} for entry in entries for name, page in entry.items()]}
    yield {"Contributing": ["contributing.md", "changelog.md"]}


def configuration(work: Path) -> dict[str, Any]:
    """The settings of mkdocs."""
    light, dark = ({"scheme": scheme, "media": f"(prefers-color-scheme: {name})", "toggle": {"icon": "material/brightness-6", "name": f"Change to {other} mode"}} for name, other, scheme in (("light", "dark", "default"), ("dark", "light", "slate")))  # fmt: skip
    return {
        "site_name": "rollhouse",
        "docs_dir": str(work / "pages"),
        "use_directory_urls": False,  # it opens from files too
        "theme": {
            "name": "material",
            "font": False,
            "palette": [light, dark],
            "features": ["navigation.tabs", "navigation.top", "content.code.copy", "search.suggest", "toc.follow"],
        },
        "plugins": [
            "search",
            {"mkdocstrings": {"handlers": {"python": {"paths": [str(work / "packages")], "options": {"show_source": False, "show_root_heading": True, "heading_level": 2, "filters": ["!^_"], "docstring_section_style": "list", "show_signature_annotations": True, "separate_signature": True}}}}},
        ],
        "markdown_extensions": ["tables", "sane_lists", "pymdownx.superfences", "pymdownx.highlight", "pymdownx.betterem", {"toc": {"permalink": True}}],
        "validation": {"omitted_files": "ignore", "absolute_links": "warn", "unrecognized_links": "warn", "anchors": "warn"},
        "nav": list(navigation()),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
