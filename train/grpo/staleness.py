"""How old the weights were that sampled a batch."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...store.lance_store import quote
from .admission import age

if TYPE_CHECKING:
    from ...store.lance_store import LanceStore


def staleness_metrics(store: "LanceStore", step: int, rollouts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`staleness/{mean,max}` at each rollout's first token, `staleness/{token_mean,token_max}` over sampled tokens, in optimizer steps.

    Args:
        rollouts: Rows with rollout_id, n_sampled_tokens, policy_version and policy_version_last; those without tokens are not counted.
    """
    sampled = [row for row in rollouts if row["n_sampled_tokens"] and row["policy_version"] is not None]
    if not sampled:
        return {}
    first = [age(step, row["policy_version"]) for row in sampled]
    mixed = _spans(store, [row for row in sampled if row["policy_version_last"] != row["policy_version"]])
    tokens = oldest = 0
    total = 0.0
    for row in sampled:
        parts = mixed.get(row["rollout_id"]) or {row["policy_version"]: row["n_sampled_tokens"]}
        total += sum(age(step, version) * n for version, n in parts.items())
        tokens += sum(parts.values())
        oldest = max(oldest, max(age(step, version) for version in parts))
    return {
        "staleness/mean": fmean(first),
        "staleness/max": float(max(first)),
        "staleness/token_mean": total / tokens,
        "staleness/token_max": float(oldest),
    }


def _spans(store: "LanceStore", rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, int]]:
    """rollout_id → weights version → sampled tokens, of rollouts that several versions sampled."""
    if not rows:
        return {}
    if "version_spans" in rows[0] and "loss_mask" in rows[0]:
        return {row["rollout_id"]: tokens_by_version(row["version_spans"], row["loss_mask"]) for row in rows}
    names = ", ".join(quote(row["rollout_id"]) for row in rows)
    found = store.read("rollouts", ["rollout_id", "version_spans", "loss_mask"], f"rollout_id in ({names})").to_pylist()
    return {row["rollout_id"]: tokens_by_version(row["version_spans"], row["loss_mask"]) for row in found}


def tokens_by_version(spans: Sequence[Mapping[str, int]], loss_mask: Sequence[int]) -> dict[int, int]:
    """Sampled tokens of a rollout by the version of the weights that sampled them; `spans` as in rollouts.version_spans."""
    ends = [span["start"] for span in spans[1:]] + [len(loss_mask)]
    counts: dict[int, int] = {}
    for span, end in zip(spans, ends, strict=True):
        n = sum(loss_mask[span["start"] : end])
        if n:
            counts[span["version"]] = counts.get(span["version"], 0) + n
    return counts
