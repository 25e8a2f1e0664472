"""Out of memory, in words that help."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ....base.errors import TrainingError


@contextmanager
def out_of_memory(doing: str) -> Iterator[None]:
    """Turns torch's out-of-memory errors, of a GPU and of a CPU, into a TrainingError that names the settings to change."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in text:
            raise
        first = next((line for line in text.splitlines() if "allocate" in line), text).strip().rstrip(".")
        raise TrainingError(
            f"Memory ran out in {doing}: {first}.",
            "Lower policy.train_mb_tokens or policy.logprob_chunk_tokens, or set policy.activation_checkpointing=true; with that the same command goes on.",
        ) from error
