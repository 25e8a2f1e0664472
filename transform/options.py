"""The options of dataset recipes. A version keeps its options, and they are part of its fingerprint."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from ..base.config import Flag, Section, default_of, mark_of
from ..base.errors import ConfigError, one_line


class Later:
    """Marks an option added after version 0.1: it enters the fingerprint only when it differs from its default.

    So an option whose default changes nothing leaves the fingerprints of older versions as they are.
    """


LATER = Later()


class Contamination(Section):
    """Overlap with the tasks that the policy will be evaluated on. Prompts of the store's validation and test tasks are always left out."""

    model_config = ConfigDict(frozen=True)

    against: Annotated[list[str], Flag("Input", metavar="SET")] = Field(default_factory=list)
    """Leave out tasks that are also in an evaluation set: validation, test, bfcl[:CATEGORY] or a JSONL file."""
    ngram: int = Field(default=8, ge=2)
    """Words per n-gram."""
    min_overlap: float = Field(default=0.5, gt=0, le=1)
    """Least share of an evaluation prompt's n-grams that a prompt must contain to count as an overlap."""
    text: Literal["exclude", "flag", "off"] = "exclude"
    """What to do with prompts that share n-grams with an evaluation prompt: exclude, flag or off."""
    calls: Literal["exclude", "flag", "off"] = "exclude"
    """The same for tasks whose true calls, arguments included, contain those of an evaluation case."""
    schemas: Literal["exclude", "flag", "off"] = "flag"
    """The same for tasks with a tool of the same name and parameters."""


class SourceOptions(Section):
    """The options of every kind: which rollouts of the snapshot are inputs, and whose rewards count."""

    model_config = ConfigDict(frozen=True)

    runs: Annotated[list[str], Flag("Input", "run", "RUN")] = Field(default_factory=list)
    """Use only rollouts of this run; repeatable."""
    environments: Annotated[list[str], Flag("Input", "environment", "NAME")] = Field(default_factory=list)
    """Use only rollouts of this environment; repeatable."""
    policies: list[str] = Field(default_factory=list)
    """Use only rollouts of these policies (policy_id)."""
    where: str | None = None
    """Use only rollouts that meet this SQL condition over their scalar columns and the split, category and difficulty of the task."""
    sql: Annotated[str | None, Flag("Input", metavar="FILE")] = None
    """A SELECT, or a file FILE.sql with one, that returns the rollout_id, the task_id, or the chosen_id and rejected_id to use. Rules that are not set are off."""
    function: Annotated[str | None, Flag("Input", metavar="FILE.py:NAME")] = None
    """A Python function that takes a Polars LazyFrame of candidates and returns those to use. Rules that are not set are off. The version keeps its source."""
    function_name: str | None = None
    """Name of the function in `function`."""
    scorer: Annotated[str, Flag("Input", metavar="NAME[@V]")] = "collected"
    """Scorer whose rewards count: NAME or NAME@VERSION; `collected` is the reward at collection time."""
    near_duplicates: float | None = Field(default=None, gt=0, le=1)
    """Keep one of several prompts whose estimated Jaccard similarity is at least this. Default: all."""
    contamination: Contamination = Contamination()
    labels: Annotated[list[str], Flag("Input", "label", "LABEL"), LATER] = Field(default_factory=list)
    """Use only rollouts with this label, on them or on a message; repeatable, all are needed."""
    not_labels: Annotated[list[str], Flag("Input", "not_label", "LABEL"), LATER] = Field(default_factory=list)
    """Leave out rollouts with this label, on them or on a message; repeatable."""
    seed: int = 0
    """Seed for the order of rows and for ties."""

    @field_validator("sql")
    @classmethod
    def _read_sql(cls, sql: str | None) -> str | None:
        """The text of the SELECT where a file is named."""
        is_file = sql is not None and sql.endswith(".sql") and "\n" not in sql
        return _text_of(sql).strip().rstrip(";") if sql is not None and is_file else sql

    @model_validator(mode="before")
    @classmethod
    def _read_function(cls, values: Any) -> Any:
        """The source and the name of the function where `FILE.py:NAME` is given, so that the file may change later."""
        function = values.get("function") if isinstance(values, dict) else None
        if not isinstance(function, str) or "\n" in function:
            return values
        file, colon, name = function.rpartition(":")
        if not colon or not name.isidentifier():
            raise ConfigError(f"{function!r} is not a reference to a function.", "Write FILE.py:NAME.")
        return {**values, "function": _text_of(file), "function_name": name}

    @model_validator(mode="after")
    def _one_recipe(self) -> Self:
        if self.sql is not None and self.function is not None:
            raise ValueError("a recipe has either `sql` or `function`")
        if (self.function is None) != (self.function_name is None):
            raise ValueError("`function` and `function_name` are set together")
        return self

    def recipe(self) -> dict[str, Any]:
        """All options as JSON values, as a version keeps them."""
        return self.model_dump(mode="json")

    def hashed_recipe(self) -> dict[str, Any]:
        """The recipe as it enters the fingerprint: without options marked LATER that are at their defaults."""
        return _hashed(self)

    def resolved(self) -> Self:
        """The options in effect: with `sql` or `function`, rules that were not set are off."""
        if self.sql is None and self.function is None:
            return self
        return self.model_copy(update={key: off for key, off in self.OFF.items() if key not in self.model_fields_set})

    @property
    def OFF(self) -> dict[str, Any]:
        """For each rule that is on by default, the value that turns it off."""
        return {}


class SftOptions(SourceOptions):
    """Options of `dataset build sft`: completed, rewarded, distinct rollouts, a limited number per task."""

    require_reward: bool = True
    """Use only rollouts with a reward. If off, only a `min_reward` that is set applies."""
    min_reward: Annotated[float | None, Flag("Data")] = None
    """Least reward. Default: 1 when all rewards are 0 or 1, else 0.9; none with min_reward_quantile."""
    min_reward_of: dict[str, float] = Field(default_factory=dict)
    """Least reward in single environments, by name."""
    min_reward_quantile: float | None = Field(default=None, ge=0, le=1)
    """Least reward as a quantile of the rewards in the environment."""
    require_passed: Annotated[bool, Flag("Data")] = False
    """Use only rollouts that passed."""
    max_tool_errors: int | None = Field(default=1, ge=0)
    """Most failed tool calls in a demonstration; null is no limit."""
    max_recovery_share: float | None = Field(default=0.2, ge=0, le=1)
    """Most demonstrations with a failed tool call, as a share of all; null is no limit."""
    allow_parse_failures: bool = False
    """Use rollouts with a tool call that could not be parsed."""
    require_tool_schemas: bool = True
    """Leave out rollouts that call a tool whose schema is not in the prompt."""
    require_final_text: bool = False
    """Use only rollouts that end with a text of the assistant."""
    min_turns: int | None = Field(default=None, ge=1)
    """Fewest turns. Default: no limit."""
    max_turns: int | None = Field(default=40, ge=1)
    """Most turns; null is no limit."""
    min_tokens: int | None = Field(default=None, ge=1)
    """Fewest tokens of the response. Default: no limit. Rollouts without tokens pass."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of the response. Default: no limit. Rollouts without tokens pass."""
    branches: Literal["all", "main"] = "all"
    """Use every branch of an episode, or only branch 0, the main one."""
    dedupe: bool = True
    """Keep one of several equal responses to one prompt."""
    per_task_cap: Annotated[int | None, Flag("Data", "per_task")] = Field(default=4, ge=1)
    """Most episodes of one task; null is no limit."""
    prefer: Literal["diverse", "reward", "short"] = "diverse"
    """Which episodes of a task to keep: those with different tool calls (diverse), higher rewards, or shorter responses."""
    max_per_category: int | None = Field(default=None, ge=1)
    """Most rows of one category. Default: no limit."""
    max_category_ratio: float | None = Field(default=None, ge=1)
    """Most rows of a category, as a multiple of the smallest category. Default: no limit."""
    max_rows: Annotated[int | None, Flag("Data")] = Field(default=None, ge=1)
    """Most rows. Default: no limit."""

    @property
    def OFF(self) -> dict[str, Any]:
        return {
            "require_reward": False, "max_tool_errors": None, "max_recovery_share": None, "max_turns": None,
            "allow_parse_failures": True, "dedupe": False, "per_task_cap": None,
        }  # fmt: skip


class DpoOptions(SourceOptions):
    """Options of `dataset build dpo`: for each task and prompt, an accepted response and a worse one."""

    pairing: Annotated[
        Literal["auto", "nearest_miss", "two_sigma", "best_worst", "ranked", "all", "step"],
        Flag("Data", metavar="RULE"),
    ] = "auto"
    """How the rejected response is chosen: auto, nearest_miss, two_sigma, best_worst, ranked, all or step."""
    min_chosen_reward: float | None = None
    """Least reward of the chosen response. Default: 1 when all rewards are 0 or 1, else 0.5."""
    min_gap: Annotated[float, Flag("Data")] = Field(default=0.2, gt=0)
    """Least difference in reward. It is 1 when all rewards are 0 or 1, except with pairing=step."""
    max_pairs_per_group: Annotated[int | None, Flag("Data", "per_group")] = Field(default=2, ge=1)
    """Most pairs of one task and prompt; null is no limit."""
    max_length_ratio: float | None = Field(default=None, ge=1)
    """Longest side of a pair, as a multiple of the other side. Default: no limit."""
    min_shared_turns: int = Field(default=1, ge=0)
    """With pairing=step: fewest assistant turns that both sides share."""
    step_scope: Literal["turn", "rest"] = "turn"
    """With pairing=step: a side is the turn that differs (turn), or everything from it on (rest)."""
    allow_truncated_rejected: bool = False
    """Use truncated rollouts as rejected responses."""
    same_policy: Annotated[bool, Flag("Data")] = False
    """Pair only rollouts of the same policy."""
    same_version: bool = False
    """Pair only rollouts of the same policy and policy version."""
    max_pairs: Annotated[int | None, Flag("Data")] = Field(default=None, ge=1)
    """Most pairs. Default: no limit."""


class GrpoOptions(SourceOptions):
    """Options of `dataset build grpo`: tasks that are neither always solved nor never."""

    pass_band: tuple[float, float] | None = None
    """Keep tasks whose pass rate is in this range [LOW, HIGH], judged by its 95 % Wilson interval. Default: all."""
    min_samples: Annotated[int, Flag("Data")] = Field(default=1, ge=1)
    """Fewest rewarded rollouts of a task."""
    zero_variance: Literal["exclude", "keep"] = "exclude"
    """Exclude or keep tasks that were always or never solved."""
    keep_extremes: float = Field(default=0.0, ge=0, le=1)
    """Share of the always and never solved tasks to keep, because the policy will change."""
    max_age_versions: int | None = Field(default=None, ge=0)
    """Ignore rollouts that are more versions than this behind the newest of their policy. Default: no limit."""
    max_age_days: float | None = Field(default=None, gt=0)
    """Ignore rollouts that started more days than this before the newest. Default: no limit."""
    stale: Literal["keep", "drop"] = "keep"
    """Keep tasks with only ignored rollouts, as unknown, or drop them."""
    weights: Annotated[Literal["none", "variance", "hard"], Flag("Data", metavar="RULE")] = "none"
    """Rate of drawing a prompt with pass rate p: equal (none), p(1-p) (variance) or 1-p (hard)."""
    order: Annotated[Literal["shuffled", "easy_first", "hard_first"], Flag("Data", metavar="ORDER")] = "shuffled"
    """Order of the prompts: shuffled, or a curriculum that training keeps (easy_first, hard_first)."""
    category_mix: dict[str, float] = Field(default_factory=dict)
    """Share of each category, by name; others are left out. Empty keeps the shares as they are."""
    max_per_category: int | None = Field(default=None, ge=1)
    """Most prompts of one category. Default: no limit."""
    max_prompts: Annotated[int | None, Flag("Data")] = Field(default=None, ge=1)
    """Most prompts. Default: no limit."""

    @property
    def OFF(self) -> dict[str, Any]:
        return {"zero_variance": "keep"}


def _hashed(options: Section) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options.model_dump(mode="json").items():
        field, section = type(options).model_fields[name], getattr(options, name)
        if mark_of(field, Later) is None or value != default_of(field):
            found[name] = _hashed(section) if isinstance(section, Section) else value
    return found


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {one_line(error)}.", "Check the path.") from error
