"""What a dataset recipe may say. The options of a version are kept with it and make part of its fingerprint."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SourceOptions(BaseModel):
    """Which rollouts of the snapshot are looked at, and whose verdict counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: tuple[str, ...] = ()
    """Runs whose rollouts are inputs; empty takes every run."""
    environments: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    where: str | None = None
    """SQL condition over scalar columns of the rollout, `split` and `category` of its task."""
    scorer: str = "collected"
    """`collected` is the verdict at collection time; NAME or NAME@VERSION takes that scorer's latest."""
    seed: int = 0
    """Decides order and every choice among equals."""


class SftOptions(SourceOptions):
    """Demonstrations: completed, rewarded, distinct, not too many of one task."""

    min_reward: float | None = None
    """None is 1 where all rewards are 0 or 1, else 0.9."""
    max_tool_errors: int | None = Field(default=1, ge=0)
    """Tool calls answered by an error that a demonstration may hold; None is any number."""
    allow_parse_failures: bool = False
    max_turns: int | None = Field(default=40, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest response in tokens; rollouts without tokens pass."""
    dedupe: bool = True
    """One of several equal responses to one prompt."""
    per_task_cap: int | None = Field(default=4, ge=1)
    max_rows: int | None = Field(default=None, ge=1)


class DpoOptions(SourceOptions):
    """Preference pairs: per task and prompt, an accepted response against a worse one."""

    min_chosen_reward: float | None = None
    """None is 1 where all rewards are 0 or 1, else 0.5."""
    min_gap: float = Field(default=0.2, gt=0)
    max_pairs_per_group: int = Field(default=2, ge=1)
    rejected: Literal["auto", "nearest_miss", "two_sigma"] = "auto"
    """`two_sigma`: the one nearest to mean - 2 std of the group; `nearest_miss`: the best of the worse; `auto`: the first from 8 rollouts on."""
    max_length_ratio: float | None = Field(default=None, ge=1)
    """Bound on how much longer one side may be than the other; None is off, see docs/datasets.md."""
    allow_truncated_rejected: bool = False
    same_policy: bool = False
    """Pairs only within one policy_id."""
    max_pairs: int | None = Field(default=None, ge=1)


class GrpoOptions(SourceOptions):
    """Prompts worth sampling from: tasks that are neither always solved nor never."""

    pass_band: tuple[float, float] | None = None
    """Keep tasks whose 95 % Wilson interval of the pass rate overlaps this; None is off."""
    min_samples: int = Field(default=1, ge=1)
    """Tasks with fewer scored rollouts are left out."""
    keep_extremes: float = Field(default=0.0, ge=0, le=1)
    """Share of the always and never solved tasks that is kept: a moving policy may find them mixed later."""
    max_prompts: int | None = Field(default=None, ge=1)
