"""Claude Code and Codex from npm, installed once into a cache folder. Their versions are pinned here."""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

PACKAGES = {"@anthropic-ai/claude-code": "2.1.332", "@openai/codex": "0.171.0"}
_ARCHITECTURES = {"x86_64": ("x64", "x86_64-unknown-linux-musl"), "aarch64": ("arm64", "aarch64-unknown-linux-musl")}
_INSTALL_S, _LOOK_S, _RUN_S = 1200, 120, 600


def cache() -> Path:
    """The folder that packages are installed into."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollhouse-tests"


def installed(package: str) -> Path:
    """The node_modules of the package. Skips the test where npm or the package is not available."""
    version = PACKAGES[package]
    if platform.system() != "Linux" or platform.machine() not in _ARCHITECTURES:
        pytest.skip(f"{package} has no binary for this machine that the test knows")
    folder = cache() / f"{package.replace('/', '-').lstrip('@')}-{version}"
    if not folder.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed")
        try:
            seen = subprocess.run([npm, "view", f"{package}@{version}", "version"], capture_output=True, text=True, timeout=_LOOK_S)  # fmt: skip
        except subprocess.TimeoutExpired:
            pytest.skip("the package index does not answer")
        if version not in seen.stdout:
            pytest.skip(f"{package}@{version} is not available: {seen.stderr.strip()[-200:]}")
        _install(npm, f"{package}@{version}", folder)
    return folder / "node_modules"


def _install(npm: str, what: str, folder: Path) -> None:
    """Into a folder of its own first, so that an install that was cut short is no install."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        (fresh / "package.json").write_text(json.dumps({"private": True}))
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", what]
        done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=_INSTALL_S)
        assert done.returncode == 0, done.stderr[-2000:]
        if not folder.exists():  # another process may have been first
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def claude_binary() -> Path:
    """Claude Code's own binary."""
    modules = installed("@anthropic-ai/claude-code")
    return modules / "@anthropic-ai" / f"claude-code-linux-{_ARCHITECTURES[platform.machine()][0]}" / "claude"


def codex_binary() -> Path:
    """Codex's own binary."""
    modules = installed("@openai/codex")
    short, long = _ARCHITECTURES[platform.machine()]
    return modules / "@openai" / f"codex-linux-{short}" / "vendor" / long / "bin" / "codex"


def run_agent(command: Sequence[str | Path], folder: Path, home: Path, variables: Mapping[str, str]) -> str:
    """The agent's stdout. It and all it started are ended at the end; requests to other machines go to a proxy that is not there."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8",
        "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost", **variables,
    }  # fmt: skip
    process = subprocess.Popen(
        [str(part) for part in command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, errors = process.communicate(timeout=_RUN_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 0, (out[-2000:], errors[-2000:])
    return out
