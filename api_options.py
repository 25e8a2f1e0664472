"""Keywords of the methods of `Store`, one class per command. Generated from the models of the settings by `tests/api_options.py`.

A keyword is a flag of the command, or a section or setting of its configuration. None leaves a setting as it is. A section is given as an
object (`rh.vllm(...)`) or a mapping.
"""

from typing import Any, Literal, TypedDict


class CollectOptions(TypedDict, total=False):
    """What to collect, and how."""

    run: str | None
    """Name of the run. A run that exists is resumed. Default: a new name."""
    environment: Any
    num_repeats: int
    """Rollouts per task."""
    seed: int | None
    """Seed for task generation, the scripted engine's mistakes and sampling. Default: chosen by the engine."""
    policy: Any
    limits: Any
    workers: str | None
    """Spread rollouts over N worker processes of a Ray cluster. Default: one process."""
    retry_failed: bool
    """Start a new attempt where the last one failed."""
    snapshot: str | None
    """Take a snapshot with this name at the end."""
    env: str | None
    """Environment: workplace, workplace-mini, math, python-sandbox, FILE.py:CLASS, nemo-gym:URL, verifiers:NAME, harbor:FOLDER or mcp:COMMAND_OR_URL."""
    tables: str | None
    """Folder of the environment's tables."""
    tasks: str | None
    """Tasks file: JSON lines, Parquet or hf:OWNER/NAME. Default: the environment generates its tasks."""
    tasks_split: str | None
    """Split of those rows of the tasks file that name none. Default: train."""
    harness: str | None
    """Harness that plays the tasks: FILE.py:FUNCTION, module:FUNCTION, openai-agents, langgraph, pydantic-ai, smolagents, mini-swe-agent or nemo-gym. Default: the built-in agent loop."""
    max_turns: int
    """Limit of model calls per rollout."""
    split: str
    """Split of the tasks: train, validation or test."""
    limit: int | None
    """Use the first N tasks of the split. Default: all."""
    engine: str
    """Engine: scripted, vllm, torch, openai:URL[,URL…] or FILE.py:CLASS."""
    model: Any
    """Checkpoint id, run, model folder or hub name; for an endpoint the name of the model that it serves."""
    max_model_len: int | None
    """Context length in tokens. Default: the model's limit; on vLLM as much of it as the cache of keys and values holds."""
    chat_template: str | None
    """Jinja file used instead of the model's chat template."""
    enable_thinking: bool | None
    """Value of the chat template's setting enable_thinking. Default: the template's own."""
    tool_parser: str
    """Parser of tool calls: a built-in one, one of vLLM's, FILE.py:name, or auto, the first that reads the template's own calls."""
    mistake_rate: float
    """Probability that the scripted engine stops before its last call."""
    max_retries: int
    """Times a request to an endpoint is sent again after 429, 5xx, a timeout, a broken connection or an invalid answer."""
    tensor_parallel_size: int
    """GPUs that each copy of the model is split over (vllm)."""
    data_parallel_size: int
    """Copies of the model (vllm)."""
    max_new_tokens: int
    """Limit of sampled tokens per model call."""
    temperature: float
    """Sampling temperature; 0 is greedy."""
    top_p: float
    """Probability mass that nucleus sampling keeps; 1 is off."""
    concurrency: int
    """Rollouts in flight, over all workers."""
    time_limit: float
    """Seconds per rollout; a rollout that takes longer gets the status timeout."""
    tool_time_limit: float | None
    """Seconds per tool call. Default: no limit."""
    token_budget: int | None
    """Stop starting rollouts after N sampled tokens. Default: no limit."""


class EvaluateOptions(TypedDict, total=False):
    """An evaluation on an environment."""

    run: str | None
    """Name of the run. A run that exists is resumed. Default: a new name."""
    environment: Any
    mode: Literal["greedy", "sampled"] | Literal["fc", "prompt"]
    """greedy (temperature 0, one rollout per task) or sampled."""
    num_repeats: int
    """Rollouts per task; more than one needs mode sampled."""
    seed: int
    """Seed for task generation, the scripted engine's mistakes and sampling."""
    limits: Any
    env: str | None
    """Environment: workplace, workplace-mini, math, python-sandbox, FILE.py:CLASS, nemo-gym:URL, verifiers:NAME, harbor:FOLDER or mcp:COMMAND_OR_URL."""
    tables: str | None
    """Folder of the environment's tables."""
    tasks: str | None
    """Tasks file: JSON lines, Parquet or hf:OWNER/NAME. Default: the environment generates its tasks."""
    tasks_split: str | None
    """Split of those rows of the tasks file that name none. Default: train."""
    harness: str | None
    """Harness that plays the tasks: FILE.py:FUNCTION, module:FUNCTION, openai-agents, langgraph, pydantic-ai, smolagents, mini-swe-agent or nemo-gym. Default: the built-in agent loop."""
    max_turns: int
    """Limit of model calls per rollout."""
    split: str
    """Split of the tasks: train, validation or test."""
    limit: int | None
    """Use the first N tasks of the split. Default: all."""
    engine: str
    """Engine: scripted, vllm, torch, openai:URL[,URL…] or FILE.py:CLASS."""
    model: Any
    """Checkpoint id, run, model folder or hub name; for an endpoint the name of the model that it serves."""
    max_model_len: int | None
    """Context length in tokens. Default: the model's limit; on vLLM as much of it as the cache of keys and values holds."""
    chat_template: str | None
    """Jinja file used instead of the model's chat template."""
    enable_thinking: bool | None
    """Value of the chat template's setting enable_thinking. Default: the template's own."""
    tool_parser: str
    """Parser of tool calls: a built-in one, one of vLLM's, FILE.py:name, or auto, the first that reads the template's own calls."""
    mistake_rate: float
    """Probability that the scripted engine stops before its last call."""
    max_retries: int
    """Times a request to an endpoint is sent again after 429, 5xx, a timeout, a broken connection or an invalid answer."""
    tensor_parallel_size: int
    """GPUs that each copy of the model is split over (vllm)."""
    data_parallel_size: int
    """Copies of the model (vllm)."""
    max_new_tokens: int
    """Limit of sampled tokens per model call."""
    temperature: float | None
    """Sampling temperature. Default: 0 in mode greedy, 1 in mode sampled."""
    top_p: float
    """Probability mass that nucleus sampling keeps; 1 is off."""
    concurrency: int
    """Rollouts in flight, over all workers."""
    time_limit: float
    """Seconds per rollout; a rollout that takes longer gets the status timeout."""
    tool_time_limit: float | None
    """Seconds per tool call. Default: no limit."""
    categories: list[str]
    """Category or group (non_live, live, single_turn, multi_turn, memory, all); may be repeated."""
    category: list[str]
    """Category or group (non_live, live, single_turn, multi_turn, memory, all); may be repeated."""


class RescoreOptions(TypedDict, total=False):
    """What to score again, and by what."""

    run: str | None
    """Name of the run. A run that exists is resumed. Default: a new name."""
    tables: str | None
    """Folder of the environment's tables."""
    rubric: Any | None
    """Criteria and judge of the scorers rubric and rubric-group. Default: none."""
    of_run: Any
    """Score only the rollouts of this run."""
    workers: int | None
    """Worker processes. Default: up to one per core."""


class TasksOptions(TypedDict, total=False):
    """Tasks that an environment generates, or that it reads from a file."""

    name: str
    """Environment: workplace, workplace-mini, math, python-sandbox, FILE.py:CLASS, nemo-gym:URL, verifiers:NAME, harbor:FOLDER or mcp:COMMAND_OR_URL."""
    tables: str | None
    """Folder of the environment's tables."""
    tasks: str | None
    """Tasks file: JSON lines, Parquet or hf:OWNER/NAME. Default: the environment generates its tasks."""
    tasks_split: str | None
    """Split of those rows of the tasks file that name none. Default: train."""
    splits: list[str]
    """Split: train, validation or test; may be repeated. Default: train and validation."""
    seed: int
    """Seed of the generator."""
    count: int | None
    """Tasks per split; at most N for an environment without a generator. Default: all."""
    split: list[str]
    """Split: train, validation or test; may be repeated. Default: train and validation."""


class ServeOptions(TypedDict, total=False):
    """What to serve, to whom, and what to record."""

    run: str | None
    """Name of the run. A run that exists is resumed. Default: a new name."""
    policy: Any
    environment: str
    """Environment of the recorded rollouts."""
    server: Any
    engine: str
    """Engine: vllm, torch or openai:URL[,URL…]."""
    model: Any
    """Checkpoint id, run, model folder or hub name; for an endpoint the name of the model that it serves."""
    max_model_len: int | None
    """Context length in tokens. Default: the model's limit; on vLLM as much of it as the cache of keys and values holds."""
    chat_template: str | None
    """Jinja file used instead of the model's chat template."""
    enable_thinking: bool | None
    """Value of the chat template's setting enable_thinking. Default: the template's own."""
    tool_parser: str
    """Parser of tool calls: a built-in one, one of vLLM's, FILE.py:name, or auto, the first that reads the template's own calls."""
    max_retries: int
    """Times a request to an endpoint is sent again after 429, 5xx, a timeout, a broken connection or an invalid answer."""
    tensor_parallel_size: int
    """GPUs that each copy of the model is split over (vllm)."""
    data_parallel_size: int
    """Copies of the model (vllm)."""
    adapter: list[str]
    """Checkpoint of a run with adapters (RUN/step_N), or folder in peft's layout, to serve beside the model under this name. May be repeated; vllm only."""
    env: str
    """Environment of the recorded rollouts."""
    host: str
    """Address to listen on. An address that other machines can reach needs an API key."""
    port: int
    """Port to listen on; 0 takes a free port and prints it."""
    served_name: str | None
    """Name of the model for clients. Default: the value of --model, or the endpoint's name."""
    api_key_env: str | None
    """Environment variable with the key that clients must send."""
    api_key: str | None
    """The key itself. Other users of this machine can see it on the command line."""
    idle_limit: float | None
    """Seconds without a call that end a rollout as timeout. Default: none."""
    id_field: list[str]
    """Header or field of the body (prompt_cache_key, metadata.user_id, …) that names the rollout of calls without an id. May be repeated; the first one found counts."""
    id_per_conversation: bool
    """Record calls without an id too: a call that continues a recorded conversation belongs to its rollout, any other begins one."""
    lenient: bool
    """Accept requests with fields that the engine cannot honour, and name them in the rows' gaps, instead of answering 400."""
    require_id: bool
    """Refuse calls without a rollout id instead of answering them without recording them."""


class ImportOptions(TypedDict, total=False):
    """What a file's rollouts are imported as."""

    env: str | None
    """Environment of the rollouts. Default: as the rows name it."""
    source_run: str | None
    """Name of the run that the rows come from; rollouts of one name share groups across files."""
    map: str | None
    """Columns of a dataset: `messages=conversations,reward=resolved`. Names: messages, prompt, completion, system, tools, reward, truth, group, key, model, step, category."""
    inputs: str | None
    """nemo-gym: file of planned inputs with the ground truths. Default: beside FILE."""
    redact: bool
    """Replace what looks like a secret (keys, tokens, passwords) before anything is stored."""
    reward_column: list[str]
    """Field that is a reward; several are summed. Default: `reward`, `rewards` or `score`, and no other number."""
    max_bad: float
    """Largest share of bad lines that is still a success."""
    strict: bool
    """Stop at the first bad line."""
    run: str | None
    """Name of the import run. Default: a new name."""


class ExportOptions(TypedDict, total=False):
    """Which rollouts are exported, and how."""

    run: str | None
    """Export only rollouts of this run."""
    where: str | None
    """Export only rollouts for which this SQL condition is true."""
    at: str | None
    """Read at a snapshot's name or an ISO time."""
    scorer: str | None
    """Scorer whose verdicts are written. Default: those of collection time."""
    plain: bool
    """Leave out keys and columns that only rollhouse reads."""
    card: bool
    """Write a README.md with the contents beside the file (trl formats)."""


class SftBuildOptions(TypedDict, total=False):
    """Options of `dataset build sft`: completed, rewarded, distinct rollouts, a limited number per task."""

    runs: list[str]
    """Use only rollouts of this run; repeatable."""
    environments: list[str]
    """Use only rollouts of this environment; repeatable."""
    policies: list[str]
    """Use only rollouts of these policies (policy_id)."""
    where: str | None
    """Use only rollouts that meet this SQL condition over their scalar columns and the split, category and difficulty of the task."""
    sql: str | None
    """A SELECT, or a file FILE.sql with one, that returns the rollout_id, the task_id, or the chosen_id and rejected_id to use. Rules that are not set are off."""
    function: str | None
    """A Python function that takes a Polars LazyFrame of candidates and returns those to use. Rules that are not set are off. The version keeps its source."""
    function_name: str | None
    """Name of the function in `function`."""
    scorer: str
    """Scorer whose rewards count: NAME or NAME@VERSION; `collected` is the reward at collection time."""
    near_duplicates: float | None
    """Keep one of several prompts whose estimated Jaccard similarity is at least this. Default: all."""
    contamination: Any
    labels: list[str]
    """Use only rollouts with this label, on them or on a message; repeatable, all are needed."""
    not_labels: list[str]
    """Leave out rollouts with this label, on them or on a message; repeatable."""
    seed: int
    """Seed for the order of rows and for ties."""
    require_reward: bool
    """Use only rollouts with a reward. If off, only a `min_reward` that is set applies."""
    min_reward: float | None
    """Least reward. Default: 1 when all rewards are 0 or 1, else 0.9; none with min_reward_quantile."""
    min_reward_of: dict[str, float]
    """Least reward in single environments, by name."""
    min_reward_quantile: float | None
    """Least reward as a quantile of the rewards in the environment."""
    require_passed: bool
    """Use only rollouts that passed."""
    max_tool_errors: int | None
    """Most failed tool calls in a demonstration; null is no limit."""
    max_recovery_share: float | None
    """Most demonstrations with a failed tool call, as a share of all; null is no limit."""
    allow_parse_failures: bool
    """Use rollouts with a tool call that could not be parsed."""
    require_tool_schemas: bool
    """Leave out rollouts that call a tool whose schema is not in the prompt."""
    require_final_text: bool
    """Use only rollouts that end with a text of the assistant."""
    min_turns: int | None
    """Fewest turns. Default: no limit."""
    max_turns: int | None
    """Most turns; null is no limit."""
    min_tokens: int | None
    """Fewest tokens of the response. Default: no limit. Rollouts without tokens pass."""
    max_tokens: int | None
    """Most tokens of the response. Default: no limit. Rollouts without tokens pass."""
    branches: Literal["all", "main"]
    """Use every branch of an episode, or only branch 0, the main one."""
    dedupe: bool
    """Keep one of several equal responses to one prompt."""
    per_task_cap: int | None
    """Most episodes of one task; null is no limit."""
    prefer: Literal["diverse", "reward", "short"]
    """Which episodes of a task to keep: those with different tool calls (diverse), higher rewards, or shorter responses."""
    max_per_category: int | None
    """Most rows of one category. Default: no limit."""
    max_category_ratio: float | None
    """Most rows of a category, as a multiple of the smallest category. Default: no limit."""
    max_rows: int | None
    """Most rows. Default: no limit."""
    run: list[str]
    """Use only rollouts of this run; repeatable."""
    environment: list[str]
    """Use only rollouts of this environment; repeatable."""
    against: list[str]
    """Leave out tasks that are also in an evaluation set: validation, test, bfcl[:CATEGORY] or a JSONL file."""
    label: list[str]
    """Use only rollouts with this label, on them or on a message; repeatable, all are needed."""
    not_label: list[str]
    """Leave out rollouts with this label, on them or on a message; repeatable."""
    per_task: int | None
    """Most episodes of one task; null is no limit."""


class DpoBuildOptions(TypedDict, total=False):
    """Options of `dataset build dpo`: for each task and prompt, an accepted response and a worse one."""

    runs: list[str]
    """Use only rollouts of this run; repeatable."""
    environments: list[str]
    """Use only rollouts of this environment; repeatable."""
    policies: list[str]
    """Use only rollouts of these policies (policy_id)."""
    where: str | None
    """Use only rollouts that meet this SQL condition over their scalar columns and the split, category and difficulty of the task."""
    sql: str | None
    """A SELECT, or a file FILE.sql with one, that returns the rollout_id, the task_id, or the chosen_id and rejected_id to use. Rules that are not set are off."""
    function: str | None
    """A Python function that takes a Polars LazyFrame of candidates and returns those to use. Rules that are not set are off. The version keeps its source."""
    function_name: str | None
    """Name of the function in `function`."""
    scorer: str
    """Scorer whose rewards count: NAME or NAME@VERSION; `collected` is the reward at collection time."""
    near_duplicates: float | None
    """Keep one of several prompts whose estimated Jaccard similarity is at least this. Default: all."""
    contamination: Any
    labels: list[str]
    """Use only rollouts with this label, on them or on a message; repeatable, all are needed."""
    not_labels: list[str]
    """Leave out rollouts with this label, on them or on a message; repeatable."""
    seed: int
    """Seed for the order of rows and for ties."""
    pairing: Literal["auto", "nearest_miss", "two_sigma", "best_worst", "ranked", "all", "step"]
    """How the rejected response is chosen: auto, nearest_miss, two_sigma, best_worst, ranked, all or step."""
    min_chosen_reward: float | None
    """Least reward of the chosen response. Default: 1 when all rewards are 0 or 1, else 0.5."""
    min_gap: float
    """Least difference in reward. It is 1 when all rewards are 0 or 1, except with pairing=step."""
    max_pairs_per_group: int | None
    """Most pairs of one task and prompt; null is no limit."""
    max_length_ratio: float | None
    """Longest side of a pair, as a multiple of the other side. Default: no limit."""
    min_shared_turns: int
    """With pairing=step: fewest assistant turns that both sides share."""
    step_scope: Literal["turn", "rest"]
    """With pairing=step: a side is the turn that differs (turn), or everything from it on (rest)."""
    allow_truncated_rejected: bool
    """Use truncated rollouts as rejected responses."""
    same_policy: bool
    """Pair only rollouts of the same policy."""
    same_version: bool
    """Pair only rollouts of the same policy and policy version."""
    max_pairs: int | None
    """Most pairs. Default: no limit."""
    run: list[str]
    """Use only rollouts of this run; repeatable."""
    environment: list[str]
    """Use only rollouts of this environment; repeatable."""
    against: list[str]
    """Leave out tasks that are also in an evaluation set: validation, test, bfcl[:CATEGORY] or a JSONL file."""
    label: list[str]
    """Use only rollouts with this label, on them or on a message; repeatable, all are needed."""
    not_label: list[str]
    """Leave out rollouts with this label, on them or on a message; repeatable."""
    per_group: int | None
    """Most pairs of one task and prompt; null is no limit."""


class GrpoBuildOptions(TypedDict, total=False):
    """Options of `dataset build grpo`: tasks that are neither always solved nor never."""

    runs: list[str]
    """Use only rollouts of this run; repeatable."""
    environments: list[str]
    """Use only rollouts of this environment; repeatable."""
    policies: list[str]
    """Use only rollouts of these policies (policy_id)."""
    where: str | None
    """Use only rollouts that meet this SQL condition over their scalar columns and the split, category and difficulty of the task."""
    sql: str | None
    """A SELECT, or a file FILE.sql with one, that returns the rollout_id, the task_id, or the chosen_id and rejected_id to use. Rules that are not set are off."""
    function: str | None
    """A Python function that takes a Polars LazyFrame of candidates and returns those to use. Rules that are not set are off. The version keeps its source."""
    function_name: str | None
    """Name of the function in `function`."""
    scorer: str
    """Scorer whose rewards count: NAME or NAME@VERSION; `collected` is the reward at collection time."""
    near_duplicates: float | None
    """Keep one of several prompts whose estimated Jaccard similarity is at least this. Default: all."""
    contamination: Any
    labels: list[str]
    """Use only rollouts with this label, on them or on a message; repeatable, all are needed."""
    not_labels: list[str]
    """Leave out rollouts with this label, on them or on a message; repeatable."""
    seed: int
    """Seed for the order of rows and for ties."""
    pass_band: tuple[float, float] | None
    """Keep tasks whose pass rate is in this range [LOW, HIGH], judged by its 95 % Wilson interval. Default: all."""
    min_samples: int
    """Fewest rewarded rollouts of a task."""
    zero_variance: Literal["exclude", "keep"]
    """Exclude or keep tasks that were always or never solved."""
    keep_extremes: float
    """Share of the always and never solved tasks to keep, because the policy will change."""
    max_age_versions: int | None
    """Ignore rollouts that are more versions than this behind the newest of their policy. Default: no limit."""
    max_age_days: float | None
    """Ignore rollouts that started more days than this before the newest. Default: no limit."""
    stale: Literal["keep", "drop"]
    """Keep tasks with only ignored rollouts, as unknown, or drop them."""
    weights: Literal["none", "variance", "hard"]
    """Rate of drawing a prompt with pass rate p: equal (none), p(1-p) (variance) or 1-p (hard)."""
    order: Literal["shuffled", "easy_first", "hard_first"]
    """Order of the prompts: shuffled, or a curriculum that training keeps (easy_first, hard_first)."""
    category_mix: dict[str, float]
    """Share of each category, by name; others are left out. Empty keeps the shares as they are."""
    max_per_category: int | None
    """Most prompts of one category. Default: no limit."""
    max_prompts: int | None
    """Most prompts. Default: no limit."""
    run: list[str]
    """Use only rollouts of this run; repeatable."""
    environment: list[str]
    """Use only rollouts of this environment; repeatable."""
    against: list[str]
    """Leave out tasks that are also in an evaluation set: validation, test, bfcl[:CATEGORY] or a JSONL file."""
    label: list[str]
    """Use only rollouts with this label, on them or on a message; repeatable, all are needed."""
    not_label: list[str]
    """Leave out rollouts with this label, on them or on a message; repeatable."""


class SftTrainingOptions(TypedDict, total=False):
    """The configuration of `train sft`."""

    run: str | None
    """Name of the run. A run that exists is resumed. Default: a new name."""
    dataset: Any
    """Dataset version to train on; NAME is the latest version."""
    policy: Any
    checkpointing: Any
    logger: Any
    trainer: Literal["trl", "learner"]
    """`trl` trains with TRL; `learner` on the learner of GRPO, without TRL, in one process."""
    validation: Any
    trl: dict[str, Any]
    """Further options of TRL's configuration class, by TRL's names."""
    sft: Any
    model: Any
    """Model to start from: a checkpoint, a run (its last checkpoint), a model folder or a name on the hub."""
    lr: float
    """Learning rate after the warm-up."""
    chat_template: str | None
    """Jinja file used instead of the model's chat template."""
    enable_thinking: bool | None
    """Value of the chat template's setting enable_thinking. Default: the template's own."""
    tool_parser: str
    """Parser of tool calls: a built-in one, one of vLLM's, FILE.py:name, or auto, the first that reads the template's own calls."""
    max_num_epochs: float
    """Passes over the dataset."""
    max_num_steps: int | None
    """Optimizer steps. Default: those of max_num_epochs."""
    seed: int
    """Seed of the training."""


class DpoTrainingOptions(TypedDict, total=False):
    """The configuration of `train dpo`. Batch sizes count pairs."""

    run: str | None
    """Name of the run. A run that exists is resumed. Default: a new name."""
    dataset: Any
    """Dataset version to train on; NAME is the latest version."""
    policy: Any
    checkpointing: Any
    logger: Any
    trainer: Literal["trl", "learner"]
    """`trl` trains with TRL; `learner` on the learner of GRPO, without TRL, in one process."""
    validation: Any
    trl: dict[str, Any]
    """Further options of TRL's configuration class, by TRL's names."""
    dpo: Any
    model: Any
    """Model to start from: a checkpoint, a run (its last checkpoint), a model folder or a name on the hub."""
    lr: float
    """Learning rate after the warm-up."""
    chat_template: str | None
    """Jinja file used instead of the model's chat template."""
    enable_thinking: bool | None
    """Value of the chat template's setting enable_thinking. Default: the template's own."""
    tool_parser: str
    """Parser of tool calls: a built-in one, one of vLLM's, FILE.py:name, or auto, the first that reads the template's own calls."""
    max_num_epochs: float
    """Passes over the dataset."""
    max_num_steps: int | None
    """Optimizer steps. Default: those of max_num_epochs."""
    seed: int
    """Seed of the training."""


class GrpoTrainingOptions(TypedDict, total=False):
    """The configuration of `train grpo`. A run that exists is resumed where its stored batches end."""

    run: str | None
    """Name of the run. A run that exists is resumed. Default: a new name."""
    dataset: Any
    """Dataset version to train on; NAME is the latest version."""
    policy: Any
    checkpointing: Any
    logger: Any
    algorithm: str
    """Preset of settings that are not given: grpo, dr_grpo, dapo, gspo, gdpo, cispo, rloo, reinforce_pp or icepop."""
    grpo: Any
    loss_fn: Any
    environment: Any
    cluster: Any
    ray: Any
    model: Any
    """Model to start from: a checkpoint, a run (its last checkpoint), a model folder or a name on the hub."""
    lr: float
    """Learning rate after the warm-up."""
    chat_template: str | None
    """Jinja file used instead of the model's chat template."""
    enable_thinking: bool | None
    """Value of the chat template's setting enable_thinking. Default: the template's own."""
    tool_parser: str
    """Parser of tool calls: a built-in one, one of vLLM's, FILE.py:name, or auto, the first that reads the template's own calls."""
    tensor_parallel_size: int
    """GPUs that each copy of the model is split over (vllm)."""
    data_parallel_size: int
    """Copies of the model (vllm)."""
    max_new_tokens: int
    """Limit of sampled tokens per model call."""
    temperature: float
    """Sampling temperature."""
    num_prompts_per_step: int
    """Prompts per optimizer step."""
    num_generations_per_prompt: int
    """Rollouts per prompt; their rewards are compared as a group."""
    max_num_steps: int
    """Optimizer steps."""
    seed: int
    """Seed for the order of prompts and for sampling."""
    env: str | None
    """Environment: workplace, workplace-mini, math, python-sandbox, FILE.py:CLASS, nemo-gym:URL, verifiers:NAME, harbor:FOLDER or mcp:COMMAND_OR_URL."""
    tables: str | None
    """Folder of the environment's tables."""
    tasks: str | None
    """Tasks file: JSON lines, Parquet or hf:OWNER/NAME. Default: the environment generates its tasks."""
    tasks_split: str | None
    """Split of those rows of the tasks file that name none. Default: train."""
    harness: str | None
    """Harness that plays the tasks: FILE.py:FUNCTION, module:FUNCTION, openai-agents, langgraph, pydantic-ai, smolagents, mini-swe-agent or nemo-gym. Default: the built-in agent loop."""
    max_turns: int
    """Limit of model calls per rollout."""
