"""Near duplicates among prompts: MinHash and banding (Broder 1997; Leskovec, Rajaraman, Ullman, chapter 3)."""

import numpy as np
import polars as pl

from ..store.lance_store import LanceStore
from .order import mixed
from .selection import Selection
from .signatures import PERMUTATIONS, minhashes

NEAR_DUPLICATE = "its prompt is nearly the same as another's"
_FOUND = 0.995  # share of the pairs at the threshold that banding must find


def exclude_near_duplicates(selection: Selection, store: LanceStore, snapshot: str, threshold: float | None) -> None:
    """Keeps one prompt, the one with the least id, of each cluster of near duplicates. A threshold of None keeps all."""
    if threshold is None:
        return
    ids, rows = minhashes(store, snapshot, selection.frame["prompt_id"].drop_nulls())
    first = clusters(rows, threshold)
    twins = ids.filter(pl.Series(first != np.arange(len(first))))
    selection.keep(~pl.col("prompt_id").is_in(twins.implode()), NEAR_DUPLICATE)


def clusters(rows: np.ndarray, threshold: float) -> np.ndarray:
    """For each row of MinHashes the index of the first row of its cluster.

    Rows that agree in a whole band are compared with the first of them. Two rows are joined when the share of equal places, an
    estimate of their Jaccard similarity (standard error at most 0.04), reaches the threshold.
    """
    edges = []
    for band in np.array_split(rows, bands(threshold), axis=1):
        keys = np.zeros(len(rows), np.uint64)
        for column in band.T:
            keys = mixed(keys * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64))
        order = np.argsort(keys, kind="stable")
        same = np.concatenate([[False], keys[order][1:] == keys[order][:-1]]) if len(rows) else np.zeros(0, bool)
        opens = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        edges.append(np.stack([order[opens[same]], order[same]], axis=1))
    pairs = np.unique(np.concatenate(edges), axis=0) if edges else np.zeros((0, 2), np.int64)
    near = [(rows[part[:, 0]] == rows[part[:, 1]]).mean(axis=1) >= threshold for part in _parts(pairs)]
    pairs = pairs[np.concatenate(near)] if near else pairs
    first = np.arange(len(rows))
    while True:
        least = np.minimum(first[pairs[:, 0]], first[pairs[:, 1]])
        moved = first.copy()
        for side in (0, 1):
            np.minimum.at(moved, pairs[:, side], least)
        if (moved == first).all():
            return first
        first = moved


def bands(threshold: float) -> int:
    """The fewest bands that find the share _FOUND of the pairs at the threshold: 1 - (1 - t**r)**b for b bands of r places."""
    for count in range(1, PERMUTATIONS):
        if 1 - (1 - threshold ** -(-PERMUTATIONS // count)) ** count >= _FOUND:
            return count
    return PERMUTATIONS


def _parts(pairs: np.ndarray) -> list[np.ndarray]:
    return np.array_split(pairs, len(pairs) // 100_000 + 1) if len(pairs) else []
