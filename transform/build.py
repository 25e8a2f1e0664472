"""Builds datasets: from a snapshot and a recipe to a version of a named dataset."""

import re
from collections.abc import Sequence
from typing import Any

import polars as pl

from ..base.errors import ConfigError
from ..store.lance_store import LanceStore
from .candidates import name_dropped, read_candidates, to_polars
from .contamination import exclude_seen
from .dataset import Dataset
from .digests import with_digests
from .dpo import (
    choose_pairs,
    explicit_pairs,
    filter_pairable,
    pair_columns,
    pair_digests,
    pair_references,
    pair_statistics,
)
from .duplicates import exclude_near_duplicates
from .grpo import WANTED, choose_prompts, pass_rate_sources, prompt_references, task_statistics
from .options import DpoOptions, GrpoOptions, SftOptions, SourceOptions
from .recipes import chosen_ids
from .references import Reference
from .schemas import keep_with_schemas, keep_with_tools
from .selection import Selection
from .sft import choose_demos, demo_columns, demo_digests, demo_references, filter_demos
from .versions import DatasetVersion, fingerprint, keep_version

NOT_NAMED = "the recipe does not name it"


def build_sft(
    store: LanceStore, name: str, snapshot: str, options: SftOptions | None = None, references: Sequence[Reference] = ()
) -> Dataset:
    """Builds a set of demonstrations, one rollout per row.

    The same recipe on the same snapshot returns the version that exists, with `existed` set.

    Args:
        name: Name of the dataset; a new recipe or snapshot makes its next version.
        snapshot: Name of the snapshot whose rollouts are the inputs.
        references: Evaluation cases of the sets that `contamination.against` names and the store does not hold.

    Raises:
        EvalLeak: The options select rollouts of validation or test tasks.
        EmptyDataset: No row is left; the message names the filter that removed the last inputs.
        VersionNotFound: There is no such snapshot.
        ConfigError: The name, a condition or a recipe's function is wrong.
    """
    options = (options or SftOptions()).resolved()
    selection = read_candidates(store, snapshot, options, demo_columns(options))
    n_tasks = _tasks_in(selection)
    _keep_named(selection, chosen_ids(store, snapshot, selection.frame, options))
    floor = filter_demos(selection, options)
    flagged = exclude_seen(selection, store, snapshot, options, references)
    exclude_near_duplicates(selection, store, snapshot, options.near_duplicates)
    selection.frame = with_digests(selection.frame, store, snapshot, demo_digests(options))
    if options.require_tool_schemas:
        keep_with_schemas(selection, store, snapshot)
    demos = choose_demos(selection, options)
    extra = {"tasks_seen": n_tasks, "min_reward": floor}
    return _keep(store, name, "sft", snapshot, options, demo_references(demos), selection, extra, flagged)


def build_dpo(
    store: LanceStore, name: str, snapshot: str, options: DpoOptions | None = None, references: Sequence[Reference] = ()
) -> Dataset:
    """Builds a set of preference pairs, two rollouts per row. Arguments, result and errors are those of build_sft."""
    options = (options or DpoOptions()).resolved()
    selection = read_candidates(store, snapshot, options, pair_columns(options))
    n_tasks = _tasks_in(selection)
    named = chosen_ids(store, snapshot, selection.frame, options)
    given = named is not None and "chosen_id" in named.columns
    _keep_named(selection, named)
    rules = None if given else filter_pairable(selection, options)
    flagged = exclude_seen(selection, store, snapshot, options, references)
    exclude_near_duplicates(selection, store, snapshot, options.near_duplicates)
    keep_with_tools(selection, store, snapshot)
    selection.frame = with_digests(selection.frame, store, snapshot, pair_digests(options))
    if rules is None:
        assert named is not None
        pairs, limits = explicit_pairs(selection, named, options.seed), {}
    else:
        pairs = choose_pairs(selection, rules)
        limits = {"min_chosen_reward": rules.floor, "min_gap": rules.gap}
    extra = {"tasks_seen": n_tasks, **limits, **pair_statistics(pairs)}
    return _keep(store, name, "dpo", snapshot, options, pair_references(pairs), selection, extra, flagged)


def build_grpo(
    store: LanceStore,
    name: str,
    snapshot: str,
    options: GrpoOptions | None = None,
    references: Sequence[Reference] = (),
) -> Dataset:
    """Builds a set of prompts for online training, one task per row. Arguments, result and errors are those of build_sft."""
    options = (options or GrpoOptions()).resolved()
    selection = read_candidates(store, snapshot, options, WANTED)
    n_inputs = selection.n_inputs
    _keep_named(selection, chosen_ids(store, snapshot, selection.frame, options))
    known = to_polars(store, "tasks", snapshot, ["task_id", "prompt_id", "category"])
    tasks = task_statistics(selection, known, options)
    name_dropped(selection, store, snapshot)
    tasks.dropped = selection.dropped
    n_tasks, sources = tasks.frame.height, pass_rate_sources(selection)
    flagged = exclude_seen(tasks, store, snapshot, options, references)
    exclude_near_duplicates(tasks, store, snapshot, options.near_duplicates)
    prompts = choose_prompts(tasks, options)
    known = prompts.filter(pl.col("n") > 0)
    extra = {
        "tasks_seen": n_tasks,
        "inputs": n_inputs,
        "mean_reward": prompts["mean_reward"].mean(),
        "pass_rate": known.select(pl.col("k").sum() / pl.col("n").sum()).item() if known.height else None,
        "samples": known["n"].sum(),
        "pass_rate_from": sources,
    }
    return _keep(store, name, "grpo", snapshot, options, prompt_references(prompts), tasks, extra, flagged)


def _tasks_in(selection: Selection) -> int:
    # 64-bit hashes are counted faster than ids.
    return selection.frame["task_id"].hash().n_unique()


def _keep_named(selection: Selection, named: pl.DataFrame | None) -> None:
    """Keeps what the recipe's SELECT or function names. A named id that is no candidate was already dropped, for its own reason."""
    if named is None:
        return
    column = "task_id" if named.columns == ["task_id"] else "rollout_id"
    ids = pl.concat([named[name] for name in named.columns]).unique()
    selection.keep(pl.col(column).is_in(ids.implode()), NOT_NAMED)


def _keep(
    store: LanceStore,
    name: str,
    kind: str,
    snapshot: str,
    options: SourceOptions,
    references: pl.DataFrame,
    selection: Selection,
    extra: dict[str, Any],
    flagged: pl.DataFrame,
) -> Dataset:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{name!r} cannot name a dataset.", "Use letters, digits, '.', '-' and '_'.")
    dropped = selection.drop_reasons()
    by_reason = dropped["reason"].value_counts(sort=True, name="n")
    by_method = flagged.group_by("reference_set", "method").agg(n=pl.col("id").n_unique())
    counts = {
        "inputs": selection.n_inputs,
        "rows": int(references["row"][-1]) + 1,
        "tasks": references["task_id"].n_unique(),
        **extra,
        "dropped": dict(sorted(by_reason.iter_rows(), key=lambda entry: (-entry[1], entry[0]))),
        "flagged": {f"{reference_set}: {method}": n for reference_set, method, n in sorted(by_method.iter_rows())},
    }
    made = DatasetVersion(
        name=name,
        kind=kind,
        snapshot=snapshot,
        scorer=options.scorer,
        recipe=options.recipe(),
        fingerprint=fingerprint(store, kind, snapshot, options.hashed_recipe(), references),
        references=references,
        drops=dropped,
        flags=flagged.drop("reference_set"),
        counts=counts,
    )
    return Dataset.of(store, keep_version(store, made))
