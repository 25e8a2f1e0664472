"""Rows as text, with what is learned of them marked: what a dry run shows of SFT and DPO."""

from collections.abc import Iterator
from itertools import pairwise

from ..policies.chat import ChatFormat
from ..store.lance_store import LanceStore
from ..transform.materialize import iter_dpo, iter_sft
from .offline import Start, open_start
from .offline_config import OfflineConfig
from .tokens import Side, Tokenizing, TokenRow

SAMPLE = 10
"""Rows (pairs) that are shown."""
MARKS = ("⟦", "⟧")
"""What is learned stands between these."""


def sample_rows(store: LanceStore, config: OfflineConfig, n: int = SAMPLE) -> list[str]:
    """The first rows of the dataset as they are trained on; what is left out is shown as its reason.

    Raises ConfigError and StoreNotFound where the run itself would.
    """
    start = open_start(store, config)
    found: list[str] = []
    for text in _texts(store, start, start.tokenizing(config.policy)):
        found.append(text)
        if len(found) == n:
            break
    return found


def _texts(store: LanceStore, start: Start, tokens: Tokenizing) -> Iterator[str]:
    if start.dataset.kind == "dpo":
        for pair in iter_dpo(store, start.dataset):
            sides = tokens.pair(pair)
            titles = zip(("chosen", "rejected"), sides or (), strict=False)
            yield "\n".join(_side(start.chat, side, title) for title, side in titles) or _left_out(tokens)
        return
    for trajectory in iter_sft(store, start.dataset):
        side = tokens.rows(trajectory)
        yield _side(start.chat, side, trajectory.rollout_id) if side else _left_out(tokens)


def _left_out(tokens: Tokenizing) -> str:
    """The reason why the row just given was left out."""
    (reason,) = tokens.left_out
    tokens.left_out.clear()
    return f"left out: {reason}"


def _side(chat: ChatFormat, side: Side, title: str) -> str:
    how = "rendered" if side[0].rendered else "sampled"
    rows = [f"{title} ({how}, {len(row)} tokens)\n{marked_text(chat, row)}" for row in side]
    return "\n".join(rows)


def marked_text(chat: ChatFormat, row: TokenRow) -> str:
    """The row as text, special tokens included, with MARKS around each sequence of learned tokens."""
    ids, mask = row.prompt_ids + row.response_ids, [0] * len(row.prompt_ids) + row.mask
    edges = [0, *(at for at in range(1, len(ids)) if mask[at] != mask[at - 1]), len(ids)]
    parts = []
    for start, end in pairwise(edges):
        text = str(chat.tokenizer.decode(ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        parts.append(f"{MARKS[0]}{text}{MARKS[1]}" if mask[start] else text)
    return "".join(parts)
