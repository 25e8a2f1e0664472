"""The SQL functions behind the column `text` of the view `tokens`."""

from typing import TYPE_CHECKING

import pyarrow as pa

from ..store.lance_store import LanceStore
from ..store.tokenizers import TokenTexts

if TYPE_CHECKING:
    import duckdb


def register_texts(con: "duckdb.DuckDBPyConnection", store: LanceStore) -> None:
    """Defines `token_texts(tokenizer_hash, token_ids)`, a list of the text that each token adds, and `token_text_gap(tokenizer_hash)`, why there is none."""
    texts = TokenTexts(store)

    def token_texts(hashes: pa.ChunkedArray, ids: pa.ChunkedArray) -> pa.Array:
        rows = zip(hashes.to_pylist(), ids.to_pylist(), strict=True)
        return pa.array(
            [None if some is None else texts.pieces(name, some) for name, some in rows], pa.list_(pa.string())
        )

    def token_text_gap(hashes: pa.ChunkedArray) -> pa.Array:
        return pa.array([texts.gap(name) for name in hashes.to_pylist()], pa.string())

    how = {"type": "arrow", "null_handling": "special"}
    con.create_function("token_texts", token_texts, ["VARCHAR", "INTEGER[]"], "VARCHAR[]", **how)  # type: ignore[arg-type]
    con.create_function("token_text_gap", token_text_gap, ["VARCHAR"], "VARCHAR", **how)  # type: ignore[arg-type]
