"""Reads the content of a report from the store: runs, metrics, evaluation stages, sample rollouts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ...queries.session import sql
from ...queries.verdicts import is_chosen
from ...store.lance_store import LanceStore, quote
from ...store.messages import Message
from ...store.runs import get_run
from ..rows import rows_of_run
from ..summary import CategoryScore, EvalSummary, by_category, summarize

_COLUMNS = ["rollout_id", "slot_id", "attempt", "run_id", "task_id", "prompt_id", "step", "reward", "passed", "status", "n_sampled_tokens"]  # fmt: skip


@dataclass(frozen=True)
class StageResult:
    """One policy of a comparison, in the order of training.

    Attributes:
        name: base, sft, ….
        sampled, greedy: Its environment evaluations; None when there was none.
        bfcl, bfcl_prompt: Category → score with functions as tools, and with functions in the prompt; empty when it was not run.
        environment: Of sampled and greedy; stages of different environments are not compared.
    """

    name: str
    sampled: EvalSummary | None = None
    greedy: EvalSummary | None = None
    bfcl: dict[str, CategoryScore] = field(default_factory=dict)
    bfcl_prompt: dict[str, CategoryScore] = field(default_factory=dict)
    environment: str = ""


@dataclass(frozen=True)
class RunFacts:
    """A run and its results.

    Attributes:
        run: As `store.runs.get_run` returns it.
        rollouts: Final rollouts (the last attempt at each slot), as rows of _COLUMNS.
        metrics: Name → (steps ascending, values); the last incarnation of a step counts.
    """

    run: dict[str, Any]
    rollouts: list[dict[str, Any]]
    metrics: dict[str, tuple[list[int], list[float]]]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run["run_id"]

    @property
    def mean_reward(self) -> float | None:
        """Mean over rollouts with a reward; None without any."""
        rewards = [rollout["reward"] for rollout in self.rollouts if rollout["reward"] is not None]
        return fmean(rewards) if rewards else None

    @property
    def seconds(self) -> float | None:
        """From the first start to the last end; None while it runs."""
        if self.run["finished_at"] is None:
            return None
        return (self.run["finished_at"] - self.run["started_at"]).total_seconds()


@dataclass(frozen=True)
class Sample:
    """A rollout to read: prompt, messages, reward."""

    row: dict[str, Any]
    prompt: list[Message]
    messages: list[Message]


def read_runs(store: LanceStore, run_ids: Sequence[str], scorer: str | None = None) -> list[RunFacts]:
    """The runs in the given order, each once.

    Args:
        scorer: NAME or NAME@VERSION whose verdicts the rollouts have, null without one; None: those of collection time.

    Raises StoreNotFound for an unknown run, ConfigError for a scorer without verdicts.
    """
    facts = []
    for run_id in dict.fromkeys(run_ids):
        run = get_run(store, run_id)
        mine = f"run_id = {quote(run_id)}"
        query = f"SELECT {', '.join(_COLUMNS)} FROM rollouts WHERE {mine} ORDER BY coalesce(attempt, 0), rollout_id"
        final = {row["slot_id"]: row for row in sql(store, query, scorer=scorer).to_pylist()}
        facts.append(RunFacts(run, list(final.values()), _metrics(store, mine)))
    return facts


def reward_curve(facts: RunFacts) -> tuple[list[int], list[float]]:
    """Mean reward of a run's rollouts by step; empty outside online training."""
    by_step: dict[int, list[float]] = {}
    for rollout in facts.rollouts:
        if rollout["step"] is not None and rollout["reward"] is not None:
            by_step.setdefault(rollout["step"], []).append(rollout["reward"])
    steps = sorted(by_step)
    return steps, [fmean(by_step[step]) for step in steps]


def stages_of_runs(store: LanceStore, run_ids: Sequence[str], scorer: str | None = None) -> list[StageResult]:
    """The evaluations of the runs, one stage per policy and environment, policies in the order of the runs.

    A stage has the name of its policy's checkpoint, else of the run that evaluated it first. If a policy was evaluated on several
    environments, the name includes the environment, and BFCL is a separate stage. Of two runs that evaluated the same the later counts.
    A scorer's verdicts replace those of rollouts; without a verdict a rollout counts as not passed.
    """
    names = _checkpoint_names(store)
    evaluated: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for run_id in dict.fromkeys(run_ids):
        fresh: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for row in cases_of(store, run_id, scorer):
            fresh.setdefault((row["policy_id"], row["benchmark"], row["mode"]), []).append(row)
        for (policy_id, benchmark, mode), rows in fresh.items():
            evaluated.setdefault(policy_id, {})[benchmark, mode] = rows
            names.setdefault(policy_id, run_id)
    return [stage for policy_id, cases in evaluated.items() for stage in _stages(names[policy_id], cases)]


def cases_of(store: LanceStore, run_id: str, scorer: str | None) -> list[dict[str, Any]]:
    """The run's evaluated cases, with the scorer's verdicts on rollouts if a scorer is given."""
    rows = rows_of_run(store, run_id)
    if not is_chosen(scorer):
        return rows
    query = f"SELECT rollout_id, passed, reward AS score FROM rollouts WHERE run_id = {quote(run_id)}"
    verdicts = {row["rollout_id"]: row for row in sql(store, query, scorer=scorer).to_pylist()}
    # BFCL has judges of its own.
    return [row if row["benchmark"] == "bfcl" else row | verdicts.get(row["rollout_id"], {}) for row in rows]


def _stages(name: str, cases: dict[tuple[str, str], list[dict[str, Any]]]) -> list[StageResult]:
    """The stages of one policy, from its evaluated cases by benchmark and mode."""
    bfcl, prompt = (by_category(cases.get(("bfcl", mode), [])) for mode in ("fc", "prompt"))
    environments = list(dict.fromkeys(benchmark for benchmark, _ in cases if benchmark != "bfcl"))
    several = len(environments) > 1
    stages = []
    for environment in environments:
        stages.append(
            StageResult(
                f"{name}, {environment}" if several else name,
                sampled=summarize(cases[environment, "sampled"]) if (environment, "sampled") in cases else None,
                greedy=summarize(cases[environment, "greedy"]) if (environment, "greedy") in cases else None,
                bfcl={} if several else bfcl,
                bfcl_prompt={} if several else prompt,
                environment=environment,
            )
        )
    if (bfcl or prompt) and len(environments) != 1:
        stages.append(StageResult(name, bfcl=bfcl, bfcl_prompt=prompt))
    return stages


def pick_samples(store: LanceStore, runs: Sequence[RunFacts], count: int, first: Sequence[str] = ()) -> list[Sample]:
    """At most `count` rollouts to read: those of `first` (rollout ids) for up to half of them, then the best of each run and, if its reward is lower, the worst."""
    by_id = {row["rollout_id"]: row for facts in runs for row in facts.rollouts}
    chosen = [by_id[rollout_id] for rollout_id in first if rollout_id in by_id][: count // 2]
    for facts in runs:
        if not facts.rollouts:
            continue
        # Judged rollouts come before those without a verdict.
        best = min(facts.rollouts, key=lambda row: (-(row["reward"] or 0.0), row["reward"] is None, row["rollout_id"]))
        worst = max(
            facts.rollouts, key=lambda row: (-(row["reward"] or 0.0), row["reward"] is not None, row["rollout_id"])
        )
        chosen += [best] if worst["reward"] == best["reward"] else [best, worst]
    once = {row["rollout_id"]: row for row in chosen}
    return _with_messages(store, list(once.values())[:count])


def _with_messages(store: LanceStore, rows: Sequence[dict[str, Any]]) -> list[Sample]:
    if not rows:
        return []
    ids = ", ".join(quote(row["rollout_id"]) for row in rows)
    columns = ["rollout_id", "messages"]
    found = store.read("rollouts", columns=columns, filter=f"rollout_id IN ({ids})").to_pylist()
    messages = {row["rollout_id"]: row["messages"] or [] for row in found}
    ids = ", ".join(quote(row["prompt_id"] or "") for row in rows)
    columns = ["prompt_id", "messages"]
    found = store.read("prompts", columns=columns, filter=f"prompt_id IN ({ids})").to_pylist()
    prompts = {row["prompt_id"]: row["messages"] or [] for row in found}
    return [
        Sample(
            row,
            [Message.from_row(message) for message in prompts.get(row["prompt_id"], [])],
            [Message.from_row(message) for message in messages[row["rollout_id"]]],
        )
        for row in rows
    ]


def _metrics(store: LanceStore, mine: str) -> dict[str, tuple[list[int], list[float]]]:
    rows = store.read("metrics", columns=["name", "step", "incarnation", "value"], filter=mine).to_pylist()
    series: dict[str, dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: row["incarnation"] or 0):
        series.setdefault(row["name"], {})[row["step"]] = row["value"]
    return {name: (sorted(by), [by[step] for step in sorted(by)]) for name, by in sorted(series.items())}


def _checkpoint_names(store: LanceStore) -> dict[str, str]:
    """weights_hash → the checkpoint's id; also the run's id if the run made only one."""
    rows = store.read("checkpoints", columns=["weights_hash", "checkpoint_id", "run_id", "created_at"]).to_pylist()
    made = Counter(row["run_id"] for row in rows)
    # Of equal weights the first counts: a run that was reproduced keeps its name.
    rows.sort(key=lambda row: (row["created_at"] is not None, row["created_at"]), reverse=True)
    return {row["weights_hash"]: row["run_id"] if made[row["run_id"]] == 1 else row["checkpoint_id"] for row in rows}
