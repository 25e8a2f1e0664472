"""What two responses have in common, without reading them into Python."""

import polars as pl

from ..store.house import House

# response: assistant text (white space normalised) and tool calls, in order; equal digests mean equal behaviour.
# path: tool names and argument keys, in order: the shape of the trajectory with every value masked.
_DIGESTS = r"""
select "offset",
  md5(to_json(list_transform(said, lambda m: {
    'text': regexp_replace(trim(coalesce(m.text, '')), '\s+', ' ', 'g'),
    'calls': list_transform(coalesce(m.tool_calls, []), lambda c: {'name': c.name, 'arguments': c.arguments})
  }))::varchar) as response,
  md5(to_json(list_transform(flatten(list_transform(said, lambda m: coalesce(m.tool_calls, []))), lambda c: {
    'name': c.name,
    'keys': list_sort(coalesce(json_keys(case when json_valid(c.arguments) then c.arguments else '{}' end), []))
  }))::varchar) as path,
  list_sum(list_transform(said, lambda m: length(coalesce(m.text, '')) + list_sum(list_append(
    list_transform(coalesce(m.tool_calls, []), lambda c: length(c.arguments)), 0)))) as chars
from (select "offset", list_filter(messages, lambda m: m.role = 'assistant') as said from batch)
"""
_BATCH_ROWS = 20_000


def with_digests(frame: pl.DataFrame, house: House, snapshot: str) -> pl.DataFrame:
    """The frame with `response` and `path` digests and `length`.

    `length` counts sampled tokens when every row has them, else characters of text and arguments.
    Messages are read by `offset`, in batches, for the rows of the frame only.
    """
    import duckdb
    import pyarrow as pa

    dataset = house.dataset("rollouts", snapshot)
    offsets = frame["offset"].sort().to_list()
    parts = []
    with duckdb.connect() as connection:
        for start in range(0, len(offsets), _BATCH_ROWS):
            chunk = offsets[start : start + _BATCH_ROWS]
            batch = dataset.take(chunk, columns=["messages"]).append_column("offset", pa.array(chunk, pa.uint32()))
            connection.register("batch", batch)
            parts.append(pl.from_arrow(connection.sql(_DIGESTS).to_arrow_table()))
    joined = frame.join(pl.concat(parts), on="offset", how="left")
    length = "chars" if joined["n_sampled_tokens"].has_nulls() else "n_sampled_tokens"
    return joined.with_columns(pl.col(length).cast(pl.Int64).alias("length")).drop("chars")
