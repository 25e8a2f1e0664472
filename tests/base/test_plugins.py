"""One rule for user code: module:name or FILE.py:name, one module for one file, and a sentence for each mistake."""

import hashlib
import sys
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.base.plugins import load_plugin, parse_plugin, plugin_hash


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_module_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_plugin("json:dumps", "scorer") is __import__("json").dumps
    assert load_plugin("pathlib:Path.home", "scorer") == Path.home
    file = write(tmp_path, "import neighbour_of_mine\nclass A:\n    size = neighbour_of_mine.SIZE\n")
    write(tmp_path, "SIZE = 3\n", "neighbour_of_mine.py")
    assert load_plugin(f"{file}:A", "environment").size == 3
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "def f(): return 1\n", "in_the_current_folder.py")
    assert load_plugin("in_the_current_folder:f", "loss")() == 1
    assert load_plugin("mine.py:A.size", "environment") == 3


def test_one_file_is_one_module_and_a_changed_file_another(tmp_path: Path) -> None:
    file = write(tmp_path, "class A: pass\n")
    first = load_plugin(f"{file}:A", "scorer")
    assert load_plugin(f"{tmp_path}/../{tmp_path.name}/mine.py:A", "loss") is first
    assert sys.modules[first.__module__].A is first
    write(tmp_path, "class A: pass\n# other\n")
    assert load_plugin(f"{file}:A", "scorer") is not first
    (tmp_path / "b").mkdir()
    twin = write(tmp_path / "b", "class A: pass\n")
    assert load_plugin(f"{twin}:A", "scorer") is not first


def test_its_hash_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "raise SystemExit\n")  # hashing imports nothing
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert plugin_hash(f"{file}:A") == plugin_hash(str(file)) == digest
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "raise SystemExit\n", "found_by_its_name.py")
    assert plugin_hash("found_by_its_name:A") == digest
    assert plugin_hash("workplace") is plugin_hash("no_such_module_here:f") is plugin_hash(f"{file}x.py") is None


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        ("workplace", None), ("nemo-gym:http://127.0.0.1:1", None), ("a:", None), (":a", None), ("a b:c", None), ("a:1", None),
        ("a.b:c", (None, "a.b", "c")), ("x/y.py", ("x/y.py", None, None)), ("x/y.py:C.d", ("x/y.py", None, "C.d")), ("/a b/c.py:f", ("/a b/c.py", None, "f")),
    ],
)  # fmt: skip
def test_forms(spec: str, form: tuple[str | None, str | None, str | None] | None) -> None:
    parsed = parse_plugin(spec)
    assert form == (parsed and (str(parsed.file) if parsed.file else None, parsed.module, parsed.name))


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("", "FILE", "The loss '.*mine.py' has no name after the file"),
        ("", "words", "The loss 'words' has no name after the module"),
        ("", "FILE:f", "has no 'f'"),
        ("def fine(): pass\n", "FILE:fin", "Did you mean 'fine'"),
        ("def fine(): pass\n", "FILE:other", "It defines: fine"),
        ("", "FOLDER/none.py:f", "The loss file .*none.py cannot be read: No such file"),
        ("x = 1\nimport not_there_at_all\n", "FILE:f", "cannot be imported: line 2: ModuleNotFoundError"),
        ("x = 1\ndef broken(:\n", "FILE:f", "cannot be imported: line 2: SyntaxError"),
        ("raise SystemExit(2)\n", "FILE:f", "cannot be imported: line 1: SystemExit: 2"),
        ("", "not_there_at_all.sub:f", "The loss not_there_at_all.sub:f does not exist: there is no module 'not_there_at_all'"),
        ("", "json:nix", "The loss 'json:nix' does not exist: json has no 'nix'"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_sentence(tmp_path: Path, text: str, spec: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        load_plugin(spec.replace("FILE", str(file)).replace("FOLDER", str(tmp_path)), "loss")


def test_a_module_that_fails_names_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "import not_there_at_all\n", "fails_when_imported.py")
    with pytest.raises(
        ConfigError, match=r"fails_when_imported:f cannot be imported: ModuleNotFoundError.*not_there_at_all"
    ):
        load_plugin("fails_when_imported:f", "advantage")
