"""Rules about tool schemas: a call of a tool that the prompt does not describe teaches a policy to invent tools."""

import json

import numpy as np
import polars as pl

from ..store.lance_store import LanceStore
from .selection import Selection

NO_SCHEMA = "it calls a tool its prompt has no schema for"
NO_TOOLS = "it calls tools and its prompt has no tool schemas"


def keep_with_schemas(selection: Selection, store: LanceStore, snapshot: str) -> None:
    """Keeps the rollouts that call only tools of their prompt. The frame has the column `called` of `with_digests`."""
    calls = selection.frame.select("prompt_id", "called").explode("called", empty_as_null=False)
    wanted = calls.unique().drop_nulls()
    if wanted.is_empty():
        return
    have = prompt_tools(store, snapshot, wanted["prompt_id"].unique())
    lacking = wanted.join(have, left_on=["prompt_id", "called"], right_on=["prompt_id", "tool"], how="anti")
    if lacking.is_empty():
        return
    number = pl.int_range(pl.len())
    rows = selection.frame.select("prompt_id", "called", number=number).explode("called", empty_as_null=False)
    bad = rows.join(lacking, on=["prompt_id", "called"], how="semi")["number"].unique()
    mask = np.ones(selection.frame.height, bool)
    mask[bad.to_numpy()] = False
    selection.keep(pl.Series(mask), NO_SCHEMA)


def keep_with_tools(selection: Selection, store: LanceStore, snapshot: str) -> None:
    """Keeps the rollouts that call no tool or whose prompt has tools. Unknown names are kept: they may be the fault of a rejected response."""
    calling = selection.frame.filter(pl.col("n_tool_calls").fill_null(0) > 0)["prompt_id"].unique()
    if calling.is_empty():
        return
    with_tools = prompt_tools(store, snapshot, calling)["prompt_id"].unique()
    bare = calling.filter(~calling.is_in(with_tools.implode()))
    if not bare.is_empty():
        fine = (pl.col("n_tool_calls").fill_null(0) == 0) | ~pl.col("prompt_id").is_in(bare.implode())
        selection.keep(fine, NO_TOOLS)


def prompt_tools(store: LanceStore, snapshot: str, prompts: pl.Series) -> pl.DataFrame:
    """(prompt_id, tool): the names of the tools that each prompt describes."""
    table = pl.from_arrow(store.read("prompts", ["prompt_id", "tools"], at=snapshot))
    assert isinstance(table, pl.DataFrame)
    table = table.filter(pl.col("prompt_id").is_in(prompts.implode()))
    # Thousands of prompts share a tool set, so each distinct text is parsed once.
    sets = table["tools"].drop_nulls().unique().sort()
    names = pl.DataFrame(
        {"tools": sets, "tool": [_names(text) for text in sets]},
        schema={"tools": pl.String, "tool": pl.List(pl.String)},
    )
    joined = table.join(names, on="tools").select("prompt_id", "tool")
    return joined.explode("tool", empty_as_null=False).drop_nulls()


def _names(tools: str) -> list[str]:
    return [function_of(tool).get("name") or "" for tool in json.loads(tools) if isinstance(tool, dict)]


def function_of(tool: dict) -> dict:
    """The function of a tool in chat form or in flat form."""
    return tool.get("function") or tool
