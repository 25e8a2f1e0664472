"""Building datasets: a snapshot and a recipe in, a version of a named dataset out."""

import re
from typing import Any

from ..store.errors import ConfigError
from ..store.house import House
from .candidates import read_candidates
from .digests import with_digests
from .dpo import choose_pairs, filter_pairable, pair_references, pair_statistics
from .grpo import choose_prompts, prompt_references, task_statistics
from .options import DpoOptions, GrpoOptions, SftOptions, SourceOptions
from .selection import Selection
from .sft import choose_demos, demo_references, filter_demos
from .versions import DatasetVersion, fingerprint, keep_version


def build_sft(house: House, name: str, snapshot: str, options: SftOptions | None = None) -> DatasetVersion:
    """A set of demonstrations, one rollout a row.

    Building again what exists returns the version there is, with `existed` set.

    Raises:
        EvalLeak: The options choose rollouts of validation or test tasks.
        EmptyDataset: Nothing is left; the message names the filter that took the last.
        VersionNotFound: There is no such snapshot.
    """
    options = options or SftOptions()
    selection = read_candidates(house, snapshot, options)
    n_tasks = selection.frame["task_id"].n_unique()
    floor = filter_demos(selection, options)
    selection.frame = with_digests(selection.frame, house, snapshot)
    demos = choose_demos(selection, options)
    extra = {"tasks_seen": n_tasks, "min_reward": floor}
    return _keep(house, name, "sft", snapshot, options, demo_references(demos), selection, extra)


def build_dpo(house: House, name: str, snapshot: str, options: DpoOptions | None = None) -> DatasetVersion:
    """A set of preference pairs, two rollouts a row. Returns and raises as build_sft."""
    options = options or DpoOptions()
    selection = read_candidates(house, snapshot, options)
    n_tasks = selection.frame["task_id"].n_unique()
    rules = filter_pairable(selection, options)
    selection.frame = with_digests(selection.frame, house, snapshot)
    pairs = choose_pairs(selection, rules)
    extra = {"tasks_seen": n_tasks, "min_chosen_reward": rules.floor, "min_gap": rules.gap, **pair_statistics(pairs)}
    return _keep(house, name, "dpo", snapshot, options, pair_references(pairs), selection, extra)


def build_grpo(house: House, name: str, snapshot: str, options: GrpoOptions | None = None) -> DatasetVersion:
    """A set of prompts for online training, one task a row. Returns and raises as build_sft."""
    options = options or GrpoOptions()
    selection = read_candidates(house, snapshot, options)
    n_inputs = selection.n_inputs
    tasks = task_statistics(selection)
    n_tasks = tasks.frame.height
    prompts = choose_prompts(tasks, options)
    extra = {"tasks_seen": n_tasks, "inputs": n_inputs, "mean_reward": prompts["mean_reward"].mean()}
    return _keep(house, name, "grpo", snapshot, options, prompt_references(prompts), tasks, extra)


def _keep(
    house: House,
    name: str,
    kind: str,
    snapshot: str,
    options: SourceOptions,
    rows: list[dict[str, Any]],
    selection: Selection,
    extra: dict[str, Any],
) -> DatasetVersion:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{name!r} cannot name a dataset.", "Use letters, digits, '.', '-' and '_'.")
    recipe = options.model_dump(mode="json")
    dropped = selection.drop_reasons()
    by_reason = dropped["reason"].value_counts(sort=True, name="n")
    counts = {
        "inputs": selection.n_inputs,
        "rows": rows[-1]["row"] + 1,
        "tasks": len({row["task_id"] for row in rows}),
        **extra,
        "dropped": dict(sorted(by_reason.iter_rows(), key=lambda entry: (-entry[1], entry[0]))),
    }
    return keep_version(
        house,
        DatasetVersion(
            name=name,
            kind=kind,
            snapshot=snapshot,
            scorer=options.scorer,
            recipe=recipe,
            fingerprint=fingerprint(house, kind, snapshot, recipe, rows),
            rows=rows,
            dropped=dropped.to_dicts(),
            counts=counts,
        ),
    )
