"""Run payloads of the version before shared settings: all settings, under the names they had then. Their names today are here alone."""

from collections.abc import Mapping
from typing import Any

_PLAYED = {
    "engine": "policy.engine",
    "model": "policy.model_name",
    "max_model_len": "policy.max_total_sequence_length",
    "mistake_rate": "policy.mistake_rate",
    "temperature": "policy.generation.temperature",
    "top_p": "policy.generation.top_p",
    "top_k": "policy.generation.top_k",
    "min_p": "policy.generation.min_p",
    "max_tokens": "policy.generation.max_new_tokens",
    "chat": "policy.chat",
    "endpoint": "policy.endpoint",
    "environment": "environment.name",
    "tables": "environment.tables",
    "tasks": "environment.tasks",
    "tasks_split": "environment.tasks_split",
    "split": "environment.split",
    "limit": "environment.limit",
    "max_turns": "environment.max_turns",
    "samples": "num_repeats",
    "tasks_sha256": "files.environment-tasks",
    "environment_sha256": "files.environment-name",
}
"""Of collect, serve and eval; all of their payloads have `engine`."""

_NOT_PLAYED = {"categories": ("environment", "limit"), "serve": ("environment",)}
"""A payload with the first key kept these names: cases of a benchmark, and served rollouts, have no environment that is played."""


def as_today(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with today's names; one of today's is returned as it is."""
    values = dict(payload)
    if isinstance(values.get("engine"), str):
        values = _renamed(values)
    environment, policy = values.get("environment"), values.get("policy")
    if isinstance(environment, Mapping) and "sha256" in environment:
        values["environment"] = {name: value for name, value in environment.items() if name != "sha256"}
        values["files"] = {"environment.name": environment["sha256"]}
    if isinstance(policy, Mapping) and isinstance(policy.get("chat"), Mapping):
        chat, hashes = _chat(policy["chat"])
        values["policy"] = {**policy, "chat": chat}
        values["files"] = {**values.get("files", {}), **hashes}
    return {name: value for name, value in values.items() if value not in (None, {})}


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = next((names for key, names in _NOT_PLAYED.items() if key in values), ())
    unused = ("seed",) if "categories" in values else ()
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name == "environments":
            _take_mixture(found, value)
        elif value is not None and name not in unused:
            *sections, last = (name if name in kept else _PLAYED.get(name, name)).split(".")
            inside = found
            for section in sections:
                inside = inside.setdefault(section, {})
            inside[last.replace("-", ".")] = value
    if found.get("mode") in ("greedy", "sampled"):  # the temperature of mode greedy was stored and not used
        generation = found["policy"].get("generation", {})
        if found["mode"] == "greedy" or generation.get("temperature") == 1.0:
            generation.pop("temperature", None)
    return found


def _take_mixture(found: dict[str, Any], entries: Mapping[str, Any]) -> None:
    """Entries by number, each with the hashes of its files."""
    files, mixture = found.setdefault("files", {}), []
    for at in sorted(entries, key=int):
        entry = dict(entries[at])
        for old, name in (("tasks_sha256", "tasks"), ("environment_sha256", "name")):
            if old in entry:
                files[f"environment.mixture.{at}.{name}"] = entry.pop(old)
        mixture.append(entry)
    found.setdefault("environment", {})["mixture"] = mixture


def _chat(chat: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The chat options and the hashes of the files they name: a run kept the hashes among the options, and thinking among the template's settings."""
    kept, hashes = dict(chat), {}
    if "chat_template_sha256" in kept:
        hashes["policy.chat.template"] = kept.pop("chat_template_sha256")
    if "tool_parser_plugin_sha256" in kept:
        name = str(kept.pop("tool_parser", "parse")).rpartition(":")[2]
        digest = kept.pop("tool_parser_plugin_sha256")
        hashes["policy.chat.tool_parser"] = digest if name == "parse" else f"{digest}:{name}"
    arguments = dict(kept.get("template_kwargs") or {})
    if isinstance(arguments.get("enable_thinking"), bool) and "enable_thinking" not in kept:
        kept["enable_thinking"] = arguments.pop("enable_thinking")
        kept["template_kwargs"] = arguments
    return kept, hashes
