"""A seeded order that is the same on every machine and whatever order rows came in."""

from hashlib import sha256

import polars as pl


def shuffled(frame: pl.DataFrame, seed: int, *id_columns: str) -> pl.DataFrame:
    """The rows ordered by the hash of seed and ids."""
    keys = [sha256(f"{seed}:{':'.join(ids)}".encode()).digest() for ids in frame.select(id_columns).iter_rows()]
    return frame.with_columns(pl.Series("_order", keys, dtype=pl.Binary)).sort("_order").drop("_order")
