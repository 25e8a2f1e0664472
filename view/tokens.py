"""The tokens of a rollout, with what engine and learner computed for each."""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..store.checkpoint_paths import located
from ..store.ids import canonical_json
from .reader import Reader
from .rollout import find, parsed, samples

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_lock = threading.Lock()
_COLUMNS = (
    "run_id", "prompt_id", "tokenizer_hash", "template_hash", "token_ids", "loss_mask", "logprobs", "version_spans", "prefix_ok", "status", "n_prompt_tokens",
)  # fmt: skip


def strip(reader: Reader, rollout_id: str, run_id: str | None = None, step: int | None = None) -> dict[str, Any]:
    """The data of the token strip.

    Args:
        run_id, step: The batch whose advantage and learner are wanted; None is the last that trained on the rollout, its own run's first.

    Returns:
        prompt_ids (empty where they were not kept); ids and mask (parallel: everything after the prompt, 1 where sampled), null without tokens;
        logprobs, trainer and entropies (one a sampled token, null where unknown); texts (token id as text → its text; empty when this machine lacks the
        tokenizer); spans ({start, version}); sample ({run_id, step, advantage, kept, reason, plan_version, trained}, null outside training);
        samples (all of these); clip ([low, high] bounds of the ratio, null when unknown); prefix_ok, status, n_prompt_tokens.
    """
    row = find(reader, rollout_id, _COLUMNS)
    planned = samples(reader, rollout_id)
    chosen = next((one for one in planned if (run_id, step) == (one["run_id"], one["step"])), None)
    if chosen is None and planned:
        chosen = max(planned, key=lambda one: (one["trained"], one["run_id"] == row["run_id"], one["step"]))
    prompt_ids = _prompt_ids(reader, row)
    ids = row["token_ids"]
    learner = (_learner(reader, rollout_id, chosen) if chosen else None) or {}
    return {
        "rollout_id": rollout_id,
        "prompt_ids": prompt_ids,
        "ids": ids,
        "mask": row["loss_mask"],
        "logprobs": _short(row["logprobs"]),
        "trainer": _short(learner.get("trainer_logprobs")),
        "entropies": _short(learner.get("entropies")),
        "texts": texts(reader, row, {*prompt_ids, *(ids or ())}),
        "spans": row["version_spans"] or [],
        "sample": chosen,
        "samples": planned,
        "clip": _clip(reader, chosen) if chosen else None,
        "prefix_ok": row["prefix_ok"],
        "status": row["status"],
        "n_prompt_tokens": row["n_prompt_tokens"],
    }


def texts(reader: Reader, row: dict[str, Any], ids: set[int]) -> dict[str, str]:
    """The text of each token id by the rollout's own tokenizer; empty when it is not on this machine."""
    if not ids or not row["tokenizer_hash"]:
        return {}
    with _lock:
        tokenizer = _tokenizer(row["tokenizer_hash"], tuple(_folders(reader, row["run_id"])))
    if tokenizer is None:
        return {}
    ordered = sorted(ids)
    return {
        str(id): text
        for id, text in zip(
            ordered, tokenizer.decode_batch([[id] for id in ordered], skip_special_tokens=False), strict=True
        )
    }


def _learner(reader: Reader, rollout_id: str, sample: dict[str, Any]) -> dict[str, Any] | None:
    query = """SELECT trainer_logprobs, entropies FROM training_outcomes WHERE rollout_id = $id AND run_id = $run AND step = $step AND use_index = 0
    ORDER BY incarnation DESC LIMIT 1"""
    return reader.row(query, id=rollout_id, run=sample["run_id"], step=sample["step"])


def _clip(reader: Reader, sample: dict[str, Any]) -> list[float] | None:
    query = "SELECT settings FROM batch_plans WHERE run_id = $run AND step = $step"
    settings = parsed((reader.row(query, run=sample["run_id"], step=sample["step"]) or {}).get("settings"))
    try:
        loss = settings["learner"]["loss"]
        return [1 - loss["clip_low"], 1 + loss["clip_high"]]
    except (KeyError, TypeError):  # of another algorithm, or none
        return None


def _prompt_ids(reader: Reader, row: dict[str, Any]) -> list[int]:
    query = """SELECT token_ids FROM prompt_tokens WHERE prompt_id = $prompt AND tokenizer_hash = $tokenizer AND template_hash = $template LIMIT 1"""
    known = {"prompt": row["prompt_id"], "tokenizer": row["tokenizer_hash"], "template": row["template_hash"]}
    if None in known.values():
        return []
    return (reader.row(query, **known) or {}).get("token_ids") or []


def _short(values: Sequence[float | None] | None) -> list[float | None] | None:
    """Five digits are more than a colour shows, and half the bytes."""
    return None if values is None else [None if value is None else round(value, 5) for value in values]


def _folders(reader: Reader, run_id: str) -> Iterator[str]:
    """Folders that may have the tokenizer: the run's model, then any checkpoint."""
    run = reader.row("SELECT config FROM runs WHERE run_id = $run", run=run_id) or {}
    yield from _model_folders(parsed(run.get("config")))
    for row in reader.rows(
        "SELECT checkpoint_id, run_id, step, path FROM checkpoints ORDER BY run_id = $run DESC, created_at DESC LIMIT 50",
        run=run_id,
    ):
        folder = located(reader.store, row)
        if folder is not None:
            yield str(folder)


def _model_folders(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        for name, value in config.items():
            if name in ("model", "model_name") and isinstance(value, str):
                yield value
            yield from _model_folders(value)


@lru_cache(maxsize=8)
def _tokenizer(wanted: str, folders: tuple[str, ...]) -> "Tokenizer | None":
    """The tokenizer whose hash is the wanted one (as policies.models.tokenizer_hash makes it), without loading transformers."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    for folder in dict.fromkeys(folders):
        file = Path(folder) / "tokenizer.json"
        if not file.is_file():
            continue
        tokenizer = Tokenizer.from_file(str(file))
        state = json.loads(tokenizer.to_str())
        state.pop("truncation", None)
        state.pop("padding", None)
        if hashlib.sha256(canonical_json(state).encode()).hexdigest()[:16] == wanted:
            return tokenizer
    return None
