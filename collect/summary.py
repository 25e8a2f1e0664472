"""What a collection came to, in counters that do not grow with the number of rollouts."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.html import html_pairs
from ..queries.passk import pass_at_k
from ..store.rollout import FAILED, Rollout


@dataclass
class Tally:
    """Counts of some rollouts.

    Attributes:
        verdicts: Rollouts with a reward.
        tasks: task_id to (rollouts with a verdict, of which passed).
    """

    rollouts: int = 0
    verdicts: int = 0
    passed: int = 0
    failed: int = 0
    tasks: dict[str, tuple[int, int]] = field(default_factory=dict)
    _total: float = 0.0
    _mean: float = 0.0
    _squares: float = 0.0

    def add(self, rollout: Rollout) -> None:
        """Counts one rollout."""
        self.rollouts += 1
        self.failed += rollout.status in FAILED
        reward = rollout.reward
        if reward is None:
            return
        self.verdicts += 1
        self.passed += bool(rollout.passed)
        task_id = rollout.task_id or ""
        n, c = self.tasks.get(task_id, (0, 0))
        self.tasks[task_id] = n + 1, c + bool(rollout.passed)
        self._total += reward
        # Running variance (Welford 1962): a difference of large sums would lose the digits that matter.
        before = reward - self._mean
        self._mean += before / self.verdicts
        self._squares += before * (reward - self._mean)

    @property
    def reward_mean(self) -> float | None:
        """None before the first verdict."""
        return self._total / self.verdicts if self.verdicts else None

    @property
    def reward_std(self) -> float | None:
        """Of the population; None before the first verdict."""
        return math.sqrt(self._squares / self.verdicts) if self.verdicts else None

    @property
    def pass_rate(self) -> float | None:
        """Over rollouts with a verdict; None before the first."""
        return self.passed / self.verdicts if self.verdicts else None

    def pass_at(self, k: int) -> float | None:
        """pass@k over the tasks with at least k verdicts, each task counting once; None when there is none."""
        return _pass_at(self.tasks.values(), k)

    def pass_at_ks(self) -> dict[str, float]:
        """pass@k for k = 1, 2, 4, … and the most verdicts a task has."""
        counts = Counter(self.tasks.values())
        most = max((n for n, _ in counts), default=0)
        ks = sorted({1 << i for i in range(most.bit_length())} | {most}) if most else []
        return {str(k): value for k in ks if (value := _pass_at(counts.elements(), k)) is not None}


def _pass_at(counts: Iterable[tuple[int, int]], k: int) -> float | None:
    known: dict[tuple[int, int], float | None] = {}
    values = []
    for n, c in counts:
        if (n, c) not in known:
            known[n, c] = pass_at_k(n, c, k)
        if (value := known[n, c]) is not None:
            values.append(value)
    return math.fsum(values) / len(values) if values else None


@dataclass
class CollectSummary:
    """What one call of `collect` did, and, while it runs, how far it is.

    Attributes:
        planned: Rollouts of the plan; `skipped` of them were in the store already, of which `failed_before` without a verdict.
        in_flight: Rollouts begun and not ended.
        statuses: Rollouts collected now, by status; errors: by error_type.
        tallies: By environment and category (None where a task has none).
        examples: error_type to the message of the rollout that failed last with it.
        sampled_tokens: 0 for a policy that shows none.
        slowest_tool: Name and seconds of the slowest call of a tool; None where no session counts them.
        stopped: Why no further rollout was begun (`token_budget`); None when all were.
        workers_lost: Worker processes that died and were replaced.
        seconds: Wall clock; commit_seconds of them after the last rollout had ended. write_seconds: the writer's thread was at work, beside the rollouts too.
    """

    run_id: str
    planned: int
    skipped: int = 0
    failed_before: int = 0
    in_flight: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    total: Tally = field(default_factory=Tally)
    tallies: dict[tuple[str, str | None], Tally] = field(default_factory=dict)
    sampled_tokens: int = 0
    turns: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    parse_failures: int = 0
    retries: int = 0
    last_error: str | None = None
    slowest_tool: tuple[str, float] | None = None
    stopped: str | None = None
    workers_lost: int = 0
    seconds: float = 0.0
    commit_seconds: float = 0.0
    write_seconds: float = 0.0

    @property
    def collected(self) -> int:
        """Rollouts of this call, failed ones included."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Rollouts of this call that ended without a verdict."""
        return self.total.failed

    @property
    def verdicts(self) -> int:
        """Rollouts of this call that have one."""
        return self.total.verdicts

    @property
    def passed(self) -> int:
        """Rollouts of this call that count as solved."""
        return self.total.passed

    @property
    def reward_mean(self) -> float | None:
        """None before the first verdict."""
        return self.total.reward_mean

    def add(self, rollout: Rollout, category: str | None = None, others: Sequence[Rollout] = ()) -> None:
        """Counts one episode, as it was written: its main row, and what further rows (`others`) have of turns and tokens."""
        self.statuses[rollout.status] += 1
        if rollout.error_type:
            self.errors[rollout.error_type] += 1
            self.examples[rollout.error_type] = self.last_error = rollout.error_message or ""
        self.total.add(rollout)
        key = (rollout.environment, category)
        if key not in self.tallies:
            self.tallies[key] = Tally()
        self.tallies[key].add(rollout)
        for row in (rollout, *others):
            self.sampled_tokens += row.n_sampled_tokens or 0
            self.turns += row.n_turns or 0
            self.tool_calls += row.n_tool_calls or 0
            self.tool_errors += row.n_tool_errors or 0
            self.parse_failures += row.n_parse_failures or 0
            self.retries += row.n_retries or 0

    def saw_tools(self, tool_seconds: Mapping[str, float]) -> None:
        """Takes note of the slowest call of each tool of one rollout, in seconds."""
        for name, seconds in tool_seconds.items():
            if self.slowest_tool is None or seconds > self.slowest_tool[1]:
                self.slowest_tool = (name, seconds)

    def _repr_html_(self) -> str:
        facts = {
            name: value
            for name, value in self.as_dict().items()
            if value not in (None, 0, {}, []) and name not in ("run_id", "groups", "failures")
        }
        return html_pairs(facts.items(), title=f"collected run {self.run_id}")

    def as_dict(self) -> dict[str, Any]:
        """For the run's summary and for printing."""
        return {
            "run_id": self.run_id,
            "planned": self.planned,
            "skipped": self.skipped,
            "failed_before": self.failed_before,
            "collected": self.collected,
            "failed": self.failed,
            "stopped": self.stopped,
            "statuses": dict(self.statuses),
            "errors": dict(self.errors),
            "reward_mean": self.reward_mean,
            "reward_std": self.total.reward_std,
            "pass_rate": self.total.pass_rate,
            "pass_at_k": self.total.pass_at_ks(),
            "turns": self.turns,
            "tool_calls": self.tool_calls,
            "tool_errors": self.tool_errors,
            "parse_failures": self.parse_failures,
            "retries": self.retries,
            "sampled_tokens": self.sampled_tokens,
            "slowest_tool": self.slowest_tool and {"tool": self.slowest_tool[0], "seconds": self.slowest_tool[1]},
            "workers_lost": self.workers_lost,
            "seconds": round(self.seconds, 3),
            "groups": self.groups(),
            "failures": self.failures(),
        }

    def groups(self) -> list[dict[str, Any]]:
        """A row for each environment and category; pass@k at the k of the most verdicts a task has anywhere."""
        most = max((n for n, _ in self.total.tasks.values()), default=1)
        rows = []
        for (environment, category), tally in sorted(
            self.tallies.items(), key=lambda item: (item[0][0], item[0][1] or "")
        ):
            row = {
                "environment": environment,
                "category": category,
                "rollouts": tally.rollouts,
                "failed": tally.failed,
                "reward_mean": tally.reward_mean,
                "reward_std": tally.reward_std,
                "pass@1": tally.pass_at(1),
            }
            rows.append(row | ({f"pass@{most}": tally.pass_at(most)} if most > 1 else {}))
        return rows

    def failures(self) -> list[dict[str, Any]]:
        """A row for each cause, the most frequent first, with the last message of it."""
        return [
            {"cause": cause, "rollouts": count, "last_message": self.examples[cause]}
            for cause, count in self.errors.most_common()
        ]
