"""Checkpoints of a run, and which of them stay."""

from typing import Any

from ..checkpoints import save_checkpoint
from ..retention import keep_best
from .setup import Parts


def save(parts: Parts, step: int, numbers: dict[str, float]) -> dict[str, Any]:
    """A checkpoint `step_N` and its row; of the earlier ones those stay that the configuration keeps."""
    row = save_checkpoint(
        parts.house,
        parts.run,
        parts.learner,
        parts.policy.chat.tokenizer,
        step,
        parts.config.checkpointing.checkpoint_dir,
        dataset=parts.run.config.get("dataset"),
        metrics=numbers,
        parent_hash=parts.model_hash,
    )
    keep_best(parts.house, parts.run.run_id, parts.config.checkpointing)
    return row
