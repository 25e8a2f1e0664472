"""Finds prompts that are also in an evaluation set, by text, true calls or tool schemas, and excludes or flags them."""

import json
from collections.abc import Sequence

import numpy as np
import polars as pl

from ..base.errors import ConfigError
from ..store.lance_store import LanceStore
from .candidates import held_out_tasks, to_polars
from .options import Contamination, SourceOptions
from .references import OWN_SPLITS, Reference, signature, store_references, true_calls
from .selection import Selection
from .signatures import SHORT_WORDS, gram_lists, ngrams

_SHORT_SIMILARITY = 0.8
_FLAGS = {"id": pl.String, "reference": pl.String, "method": pl.String, "score": pl.Float32, "reference_set": pl.String}


def exclude_seen(
    selection: Selection, store: LanceStore, snapshot: str, options: SourceOptions, references: Sequence[Reference]
) -> pl.DataFrame:
    """Drops candidates whose task overlaps with an evaluation set, and returns every overlap found, dropped or only flagged.

    Returns:
        One row per overlap: id (of the task), reference (id of the evaluation case), method (text, calls or schemas), score
        (0 to 1), reference_set.

    Raises:
        ConfigError: The sets named by `against` hold no case.
    """
    held_out = held_out_tasks(store, snapshot)["prompt_id"].drop_nulls().unique()
    exact = pl.col("prompt_id").is_in(held_out.implode())
    selection.keep(~exact.fill_null(False), "its prompt is also a held-out task's")
    rules = options.contamination
    if not rules.against:
        return pl.DataFrame(schema=_FLAGS)
    cases = [
        case for split in OWN_SPLITS if split in rules.against for case in store_references(store, snapshot, split)
    ]
    cases += references
    _refuse_absent(rules, cases)
    tasks = selection.frame.select("task_id", "prompt_id").unique("task_id")
    finders = {"text": _by_text, "calls": _by_calls, "schemas": _by_schemas}
    found = [pl.DataFrame(schema=_FLAGS)]
    for method, find in finders.items():
        action = getattr(rules, method)
        if action == "off":
            continue
        hits = find(tasks, store, snapshot, cases, rules).select(
            pl.col(name).cast(kind) for name, kind in _FLAGS.items()
        )
        found.append(hits)
        if action == "exclude":
            for name in sorted(hits["reference_set"].unique()):
                ids = hits.filter(pl.col("reference_set") == name)["id"].unique()
                selection.keep(~pl.col("task_id").is_in(ids.implode()), f"in evaluation set {name} by {method}")
    return pl.concat(found).unique(maintain_order=True).sort("id", "method", "reference")


def _refuse_absent(rules: Contamination, cases: Sequence[Reference]) -> None:
    if not cases:
        raise ConfigError(
            f"No evaluation case was found in {', '.join(rules.against)}.",
            "Name validation, test, bfcl or a JSONL file of cases.",
        )


def _by_text(
    tasks: pl.DataFrame, store: LanceStore, snapshot: str, cases: Sequence[Reference], rules: Contamination
) -> pl.DataFrame:
    """For each prompt the case that it covers most, if the score is high enough.

    The score is the share of the case's n-grams that the prompt contains; for short cases it is the Jaccard index.
    """
    starts, flat = ngrams(pl.Series([case.text for case in cases], dtype=pl.String), rules.ngram)
    sizes = np.diff(starts)
    words = pl.Series([case.text for case in cases], dtype=pl.String).str.extract_all(r"\w+").list.len().to_numpy()
    short = words < max(rules.ngram, SHORT_WORDS)
    index = pl.DataFrame({"gram": flat, "case": np.repeat(np.arange(len(cases), dtype=np.uint32), sizes)}).sort("gram")
    hits = [pl.DataFrame(schema={"prompt_id": pl.String, "case": pl.UInt32, "score": pl.Float64})]
    for ids, (edges, grams) in gram_lists(store, snapshot, tasks["prompt_id"].drop_nulls(), rules.ngram):
        owner = np.repeat(np.arange(len(ids), dtype=np.uint32), np.diff(edges))
        shared = pl.DataFrame({"gram": grams, "prompt": owner}).join(index, on="gram").group_by("prompt", "case").len()
        at, case = shared["prompt"].to_numpy(), shared["case"].to_numpy()
        both = shared["len"].to_numpy()
        whole = np.where(short[case], sizes[case] + np.diff(edges)[at] - both, sizes[case])
        enough = both / whole >= np.where(short[case], _SHORT_SIMILARITY, rules.min_overlap)
        scored = shared.select(prompt_id=ids.gather(at), case="case", score=pl.Series(both / whole))
        hits.append(scored.filter(pl.Series(enough)))
    best = pl.concat(hits).sort("prompt_id", -pl.col("score").round(6), "case").unique("prompt_id", keep="first")
    return tasks.join(best, on="prompt_id").select(
        id="task_id",
        reference=pl.col("case").map_elements(lambda number: cases[number].id, return_dtype=pl.String),
        method=pl.lit("text"),
        score="score",
        reference_set=pl.col("case").map_elements(lambda number: cases[number].set, return_dtype=pl.String),
    )


def _by_calls(
    tasks: pl.DataFrame, store: LanceStore, snapshot: str, cases: Sequence[Reference], rules: Contamination
) -> pl.DataFrame:
    """Tasks whose true calls include all calls of a case, each with an accepted value for every argument."""
    by_name: dict[str, list[Reference]] = {}
    for case in cases:
        if case.calls:
            by_name.setdefault(case.calls[0][0], []).append(case)
    truths = to_polars(store, "tasks", snapshot, ["task_id", "ground_truth"]).join(tasks, on="task_id", how="semi")
    rows = []
    for task, truth in truths.drop_nulls().iter_rows() if by_name else ():
        calls = list(true_calls(json.loads(truth)))
        near = [case for name in sorted({name for name, _ in calls}) for case in by_name.get(name, ())]
        for case in near:
            if all(any(_same(mine, theirs) for mine in calls) for theirs in case.calls):
                rows.append((task, case.id, "calls", 1.0, case.set))
                break
    return pl.DataFrame(rows, schema=_FLAGS, orient="row")


def _same(mine: tuple[str, dict], theirs: tuple[str, dict]) -> bool:
    (name, arguments), (wanted, accepted) = mine, theirs
    return name == wanted and arguments.keys() == accepted.keys() and all(
        arguments[key][0] in accepted[key] for key in arguments
    )  # fmt: skip


def _by_schemas(
    tasks: pl.DataFrame, store: LanceStore, snapshot: str, cases: Sequence[Reference], rules: Contamination
) -> pl.DataFrame:
    """Tasks that share a tool (name and parameters) with a case; the score is the share of the task's tools that a case has."""
    known: dict[tuple[str, tuple[str, ...]], Reference] = {}
    for case in cases:
        for tool in case.tools:
            known.setdefault(tool, case)
    prompts = to_polars(store, "prompts", snapshot, ["prompt_id", "tools"]).join(tasks, on="prompt_id", how="semi")
    rows = []
    for text in prompts["tools"].drop_nulls().unique().sort() if known else ():
        tools = [signature(tool) for tool in json.loads(text)]
        seen = [known[tool] for tool in tools if tool in known]
        if seen:
            rows.append((text, seen[0].id, "schemas", len(seen) / len(tools), seen[0].set))
    hits = pl.DataFrame(rows, schema={"tools": pl.String} | dict(list(_FLAGS.items())[1:]), orient="row")
    found = prompts.join(hits, on="tools").join(tasks, on="prompt_id")
    return found.select(
        id="task_id", reference="reference", method="method", score="score", reference_set="reference_set"
    )
