"""What a dataset recipe may say. The options of a version are kept with it and make part of its fingerprint."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = tuple[float, float]


class Contamination(BaseModel):
    """Overlap with what the policy will be measured on. Prompts of the store's held-out tasks never enter, whatever this says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    against: tuple[str, ...] = ()
    """Evaluation sets: `validation` and `test` are the store's own splits, `bfcl` or `bfcl:CATEGORY` the benchmark, anything else a JSONL file."""
    ngram: int = Field(default=8, ge=2)
    """Words a shared piece has."""
    min_overlap: float = Field(default=0.5, gt=0, le=1)
    """Share of an evaluation prompt's pieces found in a prompt from which on it counts as seen."""
    text: Literal["exclude", "flag", "off"] = "exclude"
    calls: Literal["exclude", "flag", "off"] = "exclude"
    """Tasks whose true calls, arguments included, are an evaluation case's."""
    schemas: Literal["exclude", "flag", "off"] = "flag"
    """Tools of the same name and the same parameters."""


class SourceOptions(BaseModel):
    """Which rollouts of the snapshot are looked at, and whose verdict counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: tuple[str, ...] = ()
    """Runs whose rollouts are inputs; empty takes every run."""
    environments: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    where: str | None = None
    """SQL condition over scalar columns of the rollout, `split` and `category` of its task."""
    sql: str | None = None
    """A SELECT of `rollout_id` (or `task_id`; for pairs also `chosen_id` and `rejected_id`) over the store: what it names is chosen, and rules not set here are off."""
    function: str | None = None
    """Python source of a function of a Polars LazyFrame of candidates that returns those to choose; as `sql`."""
    function_name: str | None = None
    scorer: str = "collected"
    """`collected` is the verdict at collection time; NAME or NAME@VERSION takes that scorer's latest."""
    near_duplicates: float | None = Field(default=None, gt=0, le=1)
    """Of prompts whose MinHash says they share this much (Jaccard), one stays; None is off."""
    contamination: Contamination = Contamination()
    seed: int = 0
    """Decides order and every choice among equals."""

    @model_validator(mode="after")
    def _one_recipe(self) -> Self:
        if self.sql is not None and self.function is not None:
            raise ValueError("a recipe has either `sql` or `function`")
        if (self.function is None) != (self.function_name is None):
            raise ValueError("`function` and `function_name` come together")
        return self

    def resolved(self) -> Self:
        """The options in force: where `sql` or `function` chooses, rules that were not set are off."""
        if self.sql is None and self.function is None:
            return self
        return self.model_copy(update={key: off for key, off in self.OFF.items() if key not in self.model_fields_set})

    @property
    def OFF(self) -> dict[str, Any]:
        """For each rule with a default, the value that turns it off."""
        return {}


class SftOptions(SourceOptions):
    """Demonstrations: completed, rewarded, distinct, not too many of one task."""

    require_reward: bool = True
    """Only rollouts with a verdict; otherwise there is no floor but the one that is set."""
    min_reward: float | None = None
    """None is 1 where all rewards are 0 or 1, else 0.9; no floor where a quantile is given."""
    min_reward_of: dict[str, float] = {}
    """The floor of single environments, by name."""
    min_reward_quantile: float | None = Field(default=None, ge=0, le=1)
    """Reward at least this quantile of its environment's."""
    require_passed: bool = False
    """Only rollouts whose verdict says solved."""
    max_tool_errors: int | None = Field(default=1, ge=0)
    """Tool calls answered by an error that a demonstration may hold; None is any number."""
    max_recovery_share: float | None = Field(default=0.2, ge=0, le=1)
    """Share of demonstrations that may hold a tool error at all; None is any."""
    allow_parse_failures: bool = False
    require_tool_schemas: bool = True
    """Every tool that is called has its schema in the prompt."""
    require_final_text: bool = False
    """The last message is the assistant's, with text."""
    min_turns: int | None = Field(default=None, ge=1)
    max_turns: int | None = Field(default=40, ge=1)
    min_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Bounds of the response in tokens; rollouts without tokens pass."""
    branches: Literal["all", "last"] = "all"
    """A row for each branch of an episode, or for its last one."""
    dedupe: bool = True
    """One of several equal responses to one prompt."""
    per_task_cap: int | None = Field(default=4, ge=1)
    """Episodes of one task: the best n."""
    prefer: Literal["diverse", "reward", "short"] = "diverse"
    """What is best under the cap: other tool paths first, the higher reward, or the shorter response."""
    max_per_category: int | None = Field(default=None, ge=1)
    max_category_ratio: float | None = Field(default=None, ge=1)
    """How many times the smallest category's rows another may have."""
    max_rows: int | None = Field(default=None, ge=1)

    @property
    def OFF(self) -> dict[str, Any]:
        return {
            "require_reward": False, "max_tool_errors": None, "max_recovery_share": None, "max_turns": None,
            "allow_parse_failures": True, "dedupe": False, "per_task_cap": None,
        }  # fmt: skip


class DpoOptions(SourceOptions):
    """Preference pairs: per task and prompt, an accepted response against a worse one."""

    pairing: Literal["auto", "nearest_miss", "two_sigma", "best_worst", "ranked", "all", "step"] = "auto"
    """How a rejected response is found, see docs/datasets.md; `auto` is `two_sigma` from 8 rollouts on, else `nearest_miss`."""
    min_chosen_reward: float | None = None
    """None is 1 where all rewards are 0 or 1, else 0.5."""
    min_gap: float = Field(default=0.2, gt=0)
    """Least difference in reward; 1 where all rewards are 0 or 1, except between steps."""
    max_pairs_per_group: int | None = Field(default=2, ge=1)
    max_length_ratio: float | None = Field(default=None, ge=1)
    """Bound on how much longer one side may be than the other; None is off, see docs/datasets.md."""
    min_shared_turns: int = Field(default=1, ge=0)
    """For `step`: assistant turns the shared prefix has at least."""
    step_scope: Literal["turn", "rest"] = "turn"
    """For `step`: a side is the one turn that differs, or everything from it on."""
    allow_truncated_rejected: bool = False
    same_policy: bool = False
    """Pairs only within one policy_id."""
    same_version: bool = False
    """And within one policy_version."""
    max_pairs: int | None = Field(default=None, ge=1)


class GrpoOptions(SourceOptions):
    """Prompts worth sampling from: tasks that are neither always solved nor never."""

    pass_band: Share | None = None
    """Keep tasks whose 95 % Wilson interval of the pass rate overlaps this; None is off."""
    min_samples: int = Field(default=1, ge=1)
    """Tasks with fewer scored rollouts are left out."""
    zero_variance: Literal["exclude", "keep"] = "exclude"
    """What becomes of tasks that were always or never solved."""
    keep_extremes: float = Field(default=0.0, ge=0, le=1)
    """Share of the always and never solved tasks that is kept: a moving policy may find them mixed later."""
    max_age_versions: int | None = Field(default=None, ge=0)
    """Rollouts of a policy more versions behind its newest say nothing about a task; None is any age."""
    max_age_days: float | None = Field(default=None, gt=0)
    """The same for rollouts that started so long before the newest one."""
    stale: Literal["keep", "drop"] = "keep"
    """Tasks with only such rollouts: kept as unknown, or left out."""
    weights: Literal["none", "variance", "hard"] = "none"
    """How often a prompt is drawn: alike, by p(1-p), or by 1-p of its pass rate."""
    order: Literal["shuffled", "easy_first", "hard_first"] = "shuffled"
    """easy_first and hard_first are a curriculum: training takes the prompts as they stand."""
    category_mix: dict[str, float] = {}
    """Share of each category, by name; categories not named are left out. Empty takes them as they come."""
    max_per_category: int | None = Field(default=None, ge=1)
    max_prompts: int | None = Field(default=None, ge=1)

    @property
    def OFF(self) -> dict[str, Any]:
        return {"zero_variance": "keep"}
