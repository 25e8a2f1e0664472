"""The tokenizers of stored tokens: kept once a store by their hash, read back as data.

A tokenizer is a JSON text (the state of a fast tokenizer, as in `tokenizer.json`), read by the `tokenizers` library: no code of a model runs.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .appending import insert_if_absent
from .checkpoint_paths import located
from .lance_store import LanceStore, quote
from .runs import get_run
from .token_pieces import BROKEN, token_pieces
from .tokenizer_states import at_hand, hash_of, state_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_BYTES = 64 << 20
"""A larger tokenizer is not kept."""
_HASH = re.compile("[0-9a-f]{16}")
_FOLDERS = 50
_AGAIN_S = 10.0  # a tokenizer that was not found may be written meanwhile


class KeptTokenizers:
    """Puts the tokenizers of a run's tokens into the store, each once."""

    def __init__(self, store: LanceStore, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._done: set[str] = set()

    def keep(self, hashes: Iterable[str | None]) -> None:
        """Inserts those that the store lacks and that this process, or the model folder of the run, has. A run that only imports has none."""
        new = {name for name in hashes if name is not None and _HASH.fullmatch(name)} - self._done
        self._done |= new
        if not new:
            return
        there = set(self._store.read("tokenizers", ["tokenizer_hash"])["tokenizer_hash"].to_pylist())
        for name in sorted(new - there):
            state = self._state(name)
            if state is not None and len(state) <= MOST_BYTES and hash_of(state) == name:
                insert_if_absent(self._store, "tokenizers", [{"tokenizer_hash": name, "state": state, "created_at": datetime.now(UTC)}])  # fmt: skip

    def _state(self, name: str) -> str | None:
        if name in at_hand:
            return at_hand[name]()
        # The tokens came from other processes: workers on a cluster.
        folders = tuple(dict.fromkeys(_model_folders(get_run(self._store, self._run_id)["config"])))
        tokenizer = _in_folders(name, folders)
        return None if tokenizer is None else state_of(tokenizer)


class TokenTexts:
    """Text of a store's tokens. Tokenizers are read on first use: from the store, else from model folders that its runs and checkpoints name."""

    def __init__(self, store: LanceStore) -> None:
        self._store = LanceStore(store.uri)  # a tokenizer is the same at any version
        self._found: dict[str, tuple[_Decoder | None, float]] = {}

    def __reduce__(self) -> Any:
        return TokenTexts, (self._store,)  # decoders stay in their process

    def pieces(self, tokenizer_hash: str | None, ids: Sequence[int]) -> list[str] | None:
        """The text that each token adds; None when the tokenizer is not known.

        Joined, they are the tokenizer's own text of all the ids. A token that ends inside a character adds nothing, and the one that completes
        it adds the character. Bytes that no token completes are U+FFFD.
        """
        decoder = self._decoder(tokenizer_hash)
        return None if decoder is None else decoder.pieces(ids)

    def gap(self, tokenizer_hash: str | None) -> str | None:
        """Why tokens of this tokenizer have no text; None when they have."""
        if tokenizer_hash is None:
            return "the rollout names no tokenizer"
        if self._decoder(tokenizer_hash) is not None:
            return None
        try:
            import tokenizers  # noqa: F401
        except ImportError:
            return "the package tokenizers is not installed"
        return f"tokenizer {tokenizer_hash} is neither in the store nor in a model folder that it names"

    def _decoder(self, name: str | None) -> "_Decoder | None":
        if name is None:
            return None
        known, at = self._found.get(name, (None, -_AGAIN_S))
        if known is None and time.monotonic() - at >= _AGAIN_S:
            tokenizer = self._kept(name) or _in_folders(name, tuple(dict.fromkeys(_folders(self._store))))
            known = None if tokenizer is None else _Decoder(tokenizer)
            self._found[name] = known, time.monotonic()
        return known

    def _kept(self, name: str) -> "Tokenizer | None":
        rows = self._store.read("tokenizers", ["state"], filter=f"tokenizer_hash = {quote(name)}")["state"].to_pylist()
        # A state of another hash is not the tokenizer of these tokens.
        fits = rows and rows[0] and len(rows[0]) <= MOST_BYTES and hash_of(rows[0]) == name
        return _loaded(rows[0]) if fits else None


def _loaded(state: str) -> "Tokenizer | None":
    try:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(state)
    except Exception:  # the package is missing, or raises a bare Exception for a state that it cannot read
        return None


class _Decoder:
    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        kind = (json.loads(tokenizer.to_str()).get("decoder") or {}).get("type")
        # Byte-level tokenizers join bytes: the text of a token that is whole characters does not depend on its neighbours.
        self._single = lru_cache(maxsize=1 << 18)(self._alone) if kind == "ByteLevel" else None

    def _alone(self, id: int) -> str | None:
        text = self._text([id])
        return None if BROKEN in text else text

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False) if ids else ""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """See TokenTexts.pieces."""
        ids = [max(id, 0) for id in ids]
        if self._single is not None:
            alone = [self._single(id) for id in ids]
            known = [text for text in alone if text is not None]
            if len(known) == len(alone):
                return known
        return token_pieces(ids, self._text)


def _folders(store: LanceStore) -> Iterator[str]:
    """Model folders that may have a tokenizer: of the runs, then the newest checkpoints."""
    for payload in store.read("run_events", ["payload"], filter="event IN ('started', 'resumed')")["payload"].to_pylist():  # fmt: skip
        try:
            yield from _model_folders(json.loads(payload or "{}"))
        except (ValueError, RecursionError):
            continue
    rows = store.read("checkpoints", ["checkpoint_id", "run_id", "step", "path", "created_at"]).to_pylist()
    for row in sorted(rows, key=lambda one: one["created_at"], reverse=True)[:_FOLDERS]:
        folder = located(store, row)
        if folder is not None:
            yield str(folder)


def _model_folders(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        for name, value in config.items():
            if name in ("model", "model_name") and isinstance(value, str):
                yield value
            yield from _model_folders(value)


@lru_cache(maxsize=8)
def _in_folders(wanted: str, folders: tuple[str, ...]) -> "Tokenizer | None":
    seen: set[bytes] = set()
    for folder in folders:
        file = Path(folder) / "tokenizer.json"
        try:
            state = file.read_text(encoding="utf-8") if file.stat().st_size <= MOST_BYTES else ""
        except (OSError, ValueError):
            continue
        digest = hashlib.sha256(state.encode()).digest()  # the checkpoints of a run have the same file
        tokenizer = None if not state or digest in seen else _loaded(state)
        seen.add(digest)
        if tokenizer is not None and hash_of(state_of(tokenizer)) == wanted:
            return tokenizer
    return None
