"""The tokens of a rollout, with what engine and learner computed for each."""

import threading
from collections.abc import Sequence
from typing import Any

from ..store.tokenizers import TokenTexts
from .reader import Reader
from .rollout import find, parsed, samples

_lock = threading.Lock()
_sources: dict[str, TokenTexts] = {}
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
    """The text of each token id by the rollout's own tokenizer; empty when neither the store nor this machine has it."""
    with _lock:
        source = _sources.setdefault(reader.store.uri, TokenTexts(reader.store))
        found = {str(id): source.pieces(row["tokenizer_hash"], [id]) for id in sorted(ids)}
    return {id: pieces[0] for id, pieces in found.items() if pieces}


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
