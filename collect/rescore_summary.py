"""What a scorer sees of a rollout, and what rescoring did."""

from dataclasses import dataclass, field
from typing import Any

COLUMNS = [
    "rollout_id", "run_id", "step", "task_id", "prompt_id", "environment", "policy_id", "messages", "status", "stop_reason", "reward",
    "passed", "n_turns", "n_tool_calls", "n_tool_errors", "n_sampled_tokens", "duration_s",
]  # fmt: skip


@dataclass
class RescoreSummary:
    """What rescoring did.

    Attributes:
        environment: Whose rollouts were looked at; None all.
        scorer, scorer_version: Who gave the verdicts, as `scores` names them; None when there are none.
        scored: Rollouts that have a verdict now.
        new: Verdicts the store did not have yet.
        passed: Verdicts that count as solved.
        moved: Verdicts that differ from the reward at collection time.
        left_out: Rollouts without a verdict, by reason: no_truth, the status of one that failed, no_verdict, judge_failed, scorer_error and its type;
            of a scorer that compares groups: alone in its group, of no group, a later attempt took its place, another row of its episode.
    """

    run_id: str
    environment: str | None
    scorer: str | None = None
    scorer_version: str | None = None
    scored: int = 0
    new: int = 0
    passed: int = 0
    moved: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def count(self, rollout: dict[str, Any], reward: float | None, passed: bool | None) -> None:
        """Counts a rollout that has a verdict now."""
        self.scored += 1
        self.passed += bool(passed)
        self.moved += rollout["reward"] is not None and rollout["reward"] != reward

    def leave_out(self, reason: str) -> None:
        """Counts a rollout that has none."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
