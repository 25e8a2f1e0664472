"""Models and data sets by their name on the hub: downloaded once, then read from the hub client's cache."""

import os
from pathlib import Path
from typing import Literal

from ..base.errors import ConfigError, EngineError, RollhouseError, one_line
from ..base.packages import need

Kind = Literal["model", "dataset"]

# Weights as safetensors only: pickled ones (*.bin, *.pt) run code when they are read.
_WANTED = {
    "model": ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"],
    "dataset": ["*.jsonl", "*.json", "*.parquet"],
}
# The same weights a second time, in their makers' own layout.
_UNWANTED = {"model": ["original/*", "consolidated*.safetensors"], "dataset": []}
_TRUE = ("1", "on", "yes", "true")


def hub_folder(name: str, kind: Kind = "model", revision: str | None = None, cache: Path | None = None) -> Path:
    """The folder of a hub repository: downloaded if it is not in the cache, and the cached copy when the hub cannot be reached.

    A model is its safetensors, configuration and tokenizer files, a data set its JSON and Parquet files. The variables of the
    hub's client apply: HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE.

    Args:
        name: `owner/name`.
        revision: A branch, tag or commit; None is the main branch.
        cache: None is the client's own.

    Raises:
        ConfigError: There is no such repository or revision, it needs a token or a permission, or this machine is offline without a copy.
        EngineError: The hub does not answer or limits the rate, and there is no cached copy.
        MissingExtra: The hub's client is not installed.
    """
    client = need("huggingface_hub")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
    try:
        folder = client.snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            cache_dir=cache,
            allow_patterns=_WANTED[kind],
            ignore_patterns=_UNWANTED[kind],
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            local_files_only=offline,
        )
    # The client raises its own errors, those of its HTTP library, OSError, and ValueError for a bad name.
    except Exception as error:
        raise _explained(error, name, kind, revision, offline) from error
    return Path(folder)


def _explained(error: Exception, name: str, kind: Kind, revision: str | None, offline: bool) -> RollhouseError:
    """The client's error as one of ours. No message contains the token."""
    from huggingface_hub import errors

    it = f"{kind} {name!r}" + (f" at {revision}" if revision else "")
    status = _status(error)
    if isinstance(error, errors.HFValidationError):
        return ConfigError(f"{name!r} is not a hub name.", "Write OWNER/NAME.")
    if offline or _caused_by(error, errors.OfflineModeIsEnabled):
        return ConfigError(f"HF_HUB_OFFLINE is set and the cache has no copy of {it}.", "Unset HF_HUB_OFFLINE to download it, or name a folder.")  # fmt: skip
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(f"The {kind} {name!r} has no revision {revision!r}.", "Name a branch, a tag or a commit of it.")  # fmt: skip
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return ConfigError(f"Access denied by the hub: {it} is gated.", f"Ask for access at {_endpoint()}/{_page(name, kind)}, then set HF_TOKEN to a token of that account.")  # fmt: skip
    if status == 401:
        return ConfigError(f"The hub has no {it}, or it is private.", "Check the name; for a private or gated one set HF_TOKEN to a token that may read it.")  # fmt: skip
    if status == 404:
        return ConfigError(f"The hub has no {it}.", "Check the name, or name a folder.")
    if status == 429:
        return EngineError(f"The hub limits the rate of requests and refused {it}.", "Wait some minutes and try again; with HF_TOKEN set the limit is higher.")  # fmt: skip
    if status is not None:
        return EngineError(f"The hub returned status {status} for {it}.", "Try again later, or name a folder.")
    reason = one_line(f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}", 200).rstrip(".")
    return EngineError(f"Cannot download {it} from the hub at {_endpoint()} ({reason}).", "Check the network (or HF_ENDPOINT), or name a folder.")  # fmt: skip


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or link.__context__
    return found


def _caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    return any(isinstance(link, kind) for link in _chain(error))


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, None when there was no answer."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if response is not None:
            return response.status_code
    return None


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _page(name: str, kind: Kind) -> str:
    return name if kind == "model" else f"datasets/{name}"
