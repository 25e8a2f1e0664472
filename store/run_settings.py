"""The settings that a run was started with, and whether a command that names the run has the same.

The payload of `started` holds what differs from the defaults, and beside it the hashes of the model (`model_hash`) and of the files that settings name
(`files`). So a setting that a later version adds, with a default that keeps the behaviour, changes nothing about the runs of an earlier one.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from ..base.config import (
    content_hashes,
    default_at,
    differing,
    flat,
    is_content_alone,
    is_free,
    without_defaults,
)
from ..base.errors import ConfigError
from .lance_store import LanceStore, quote
from .old_payloads import as_today
from .runs import get_run


def run_payload(config: BaseModel, **beside: Any) -> dict[str, Any]:
    """What a run keeps of its configuration: the settings that differ from the defaults, `files`, and of `beside` what is not None.

    Raises ConfigError for a file that cannot be read.
    """
    hashes = content_hashes(config)
    kept = {name: value for name, value in {"files": hashes or None, **beside}.items() if value is not None}
    settings = {name: value for name, value in differing(config).items() if name != "run"}
    return {**settings, **kept}


def stored_settings(model: type[BaseModel], payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of a run, of this version or an earlier one, as `run_payload` makes it today."""
    return without_defaults(model, as_today(payload))


def refuse_other_config(
    store: LanceStore, run_id: str, model: type[BaseModel], payload: Mapping[str, Any], free: Iterable[str] = ()
) -> None:
    """Raises ConfigError naming each difference when the run exists and has another configuration.

    Args:
        payload: Of the command's configuration, as `run_payload` gives it.
        free: Settings that may differ besides those marked `FREE`, as `section.key`; the name of a section stands for all in it.
    """
    if not store.read("run_events", columns=["sequence"], filter=f"run_id = {quote(run_id)}").num_rows:
        return
    now = flat(without_defaults(model, json.loads(json.dumps(payload, default=str))))
    before = flat(stored_settings(model, get_run(store, run_id)["config"]))
    allowed = tuple(f"{name}." for name in free)
    changes = []
    for name in sorted({*before, *now}):
        was, is_now = (values.get(name, default_at(model, name)) for values in (before, now))
        may_differ = is_free(model, name) or f"{name}.".startswith(allowed)
        hashes = [values.get(f"files.{name}") for values in (before, now)]
        same_content = is_content_alone(model, name) and hashes[0] is not None and hashes[0] == hashes[1]
        if was != is_now and not may_differ and not same_content and not _was_not_hashed(name, before):
            changes.append(f"{name} is {_shown(was)} in the run and {_shown(is_now)} now")
    if changes:
        raise ConfigError(
            f"Run {run_id!r} exists with a different configuration: {'; '.join(changes)}.",
            "Use the run's settings to resume it, or another name for a new run.",
        )


def _was_not_hashed(name: str, before: Mapping[str, Any]) -> bool:
    """Whether the run named a file and kept no hash of it, as runs of earlier versions did of some files."""
    return name.startswith("files.") and name not in before and name.removeprefix("files.") in before


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
