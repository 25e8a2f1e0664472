"""Whether a checkpoint is the model that was trained: its weights are finite, and one forward pass of both gives the same."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import TrainingError
from ..base.packages import need

LOOKED_AT = 128
"""Tokens of the forward pass."""
_EXACT, _ROUNDED = 1e-2, 1.0
"""Differences in nats that are rounding: of float32 folders, and of folders of lower precision than the training's. A wrong weight differs by tens."""


def refuse_infinite(model: Any, step: int) -> None:
    """Raises TrainingError when a weight of the model is not finite."""
    torch = need("torch")
    bad = [name for name, tensor in model.named_parameters() if not bool(torch.isfinite(tensor).all())]
    if bad:
        n = sum(1 for _ in model.parameters())
        raise TrainingError(
            f"{len(bad)} of {n} weight tensors are not finite after step {step}, the first {bad[0]}. No checkpoint is saved.",
            "Lower policy.optimizer.lr, or train longer with policy.optimizer.warmup_steps.",
        )


class CheckedModel:
    """A trained model that is saved and then compared with what was saved."""

    def __init__(self, trained: Any, saving: Any, token_ids: Sequence[int]) -> None:
        """`trained` is the model in training, `saving` what writes it, `token_ids` a row to compare on."""
        self._trained, self._saving, self._ids = trained, saving, token_ids

    def save_pretrained(self, folder: str | Path) -> None:
        """Raises TrainingError where the folder does not hold the trained model afterwards."""
        self._saving.save_pretrained(folder)
        refuse_other_model(self._trained, folder, self._ids)


def refuse_other_model(model: Any, folder: str | Path, token_ids: Sequence[int]) -> None:
    """Raises TrainingError when the model that a folder holds gives other log-probabilities than the trained one.

    Args:
        model: The model in training, with its adapters.
        token_ids: A row to compare on; its first tokens are used.
    """
    torch = need("torch")
    ids = torch.tensor([list(token_ids)[:LOOKED_AT]])
    saved = need("transformers").AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    apart = float((_logprobs(model, ids) - _logprobs(saved, ids)).abs().max())
    limit = _EXACT if stored_dtype(folder) == "float32" else _ROUNDED
    if not apart <= limit:
        raise TrainingError(
            f"The checkpoint in {folder} is not the trained model: log-probabilities differ by {apart:.3g} (allowed: {limit:g}).",
            "With adapters on embeddings, choose other policy.lora.target_modules; otherwise report a bug.",
        )


def stored_dtype(folder: str | Path) -> str:
    """The dtype that a folder's config names, `float32` when it names none."""
    config = json.loads((Path(folder) / "config.json").read_text())
    return config.get("dtype") or config.get("torch_dtype") or "float32"


def _logprobs(model: Any, ids: Any) -> Any:
    """Log-probabilities of the tokens after the first, shape [1, tokens - 1], on the CPU."""
    torch = need("torch")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits.float()
    finally:
        model.train(training)
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None].to(logits.device))[..., 0].cpu()
