"""Makes the weights file of the package: `python -m rollhouse.train.tiny.build` (minutes on one core)."""

import sys
import time

from .base import SHIPPED
from .model import weights_of
from .recipe import recipe_hash, train_base
from .tokenizer import build_tokenizer


def main() -> None:
    """Trains by the recipe and writes base.safetensors in half precision, with the recipe's hash in its metadata."""
    from safetensors.torch import save_file

    started = time.monotonic()
    tokenizer = build_tokenizer()
    weights = weights_of(train_base(tokenizer, progress=_print))
    half = {name: tensor.half() for name, tensor in weights.items()}
    save_file(half, SHIPPED, metadata={"recipe_hash": recipe_hash(tokenizer=tokenizer), "format": "pt"})
    print(f"{SHIPPED}: {SHIPPED.stat().st_size / 1e6:.2f} MB in {time.monotonic() - started:.0f} s")


def _print(done: int, total: int, note: str) -> None:
    if done % 20 == 0 or done == total:
        print(f"step {done} of {total}: {note}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
