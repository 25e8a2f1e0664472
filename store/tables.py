"""Every table of a store. A list is parallel to what its text says; null means not observed, empty means there was none."""

import pyarrow as pa

from .columns import Column, Table

STR, I32, I64, F32, F64 = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64()
BOOL, TIME = pa.bool_(), pa.timestamp("us", tz="UTC")

MESSAGES = pa.list_(
    pa.struct(
        [
            ("role", STR),
            ("text", STR),
            ("parts", STR),
            ("reasoning", STR),
            ("tool_calls", pa.list_(pa.struct([("id", STR), ("name", STR), ("arguments", STR)]))),
            ("tool_call_id", STR),
        ]
    )
)
COMPONENTS = pa.list_(pa.struct([("name", STR), ("value", F64), ("weight", F64)]))

ROLLOUTS = Table(
    "rollouts",
    "One trajectory of one agent: what it was asked, did, was sampled from, and earned at collection time.",
    "rollout_id",
    (
        Column("rollout_id", STR, "H(run_id, step or -1, task_id, sample_index, attempt): the slot, not the content"),
        Column("slot_id", STR, "the rollout_id without the attempt"),
        Column("run_id", STR, "the run that collected or imported it"),
        Column("step", I32, "optimizer step it was collected for; null outside online training"),
        Column("task_id", STR, "row of `tasks`"),
        Column("prompt_id", STR, "row of `prompts`"),
        Column("group_id", STR, "rollouts of one task sampled together"),
        Column("sample_index", I32, "position in the group, from 0"),
        Column("attempt", I32, "0 for the first try at a slot"),
        Column("episode_id", STR, "shared by the rows of one episode (several agents or branches)"),
        Column("agent", STR, "which agent of the episode"),
        Column("branch", I32, "which branch of the agent's conversation, from 0"),
        Column("trainable", BOOL, "whether the agent is the one being trained"),
        Column("environment", STR, "name of the environment"),
        Column("policy_id", STR, "weights hash of the model, run_id of the online run, or the endpoint's model name"),
        Column("policy_version", I32, "optimizer steps behind the weights of the first sampled token"),
        Column("policy_version_last", I32, "the same for the last sampled token"),
        Column(
            "version_spans",
            pa.list_(pa.struct([("start", I32), ("version", I32)])),
            "policy version from position `start` of token_ids on, oldest first; null without tokens",
        ),
        Column("tokenizer_hash", STR, "identifies the tokenizer of token_ids; null without tokens"),
        Column("template_hash", STR, "identifies the chat template that rendered the prompt"),
        Column("engine", STR, "what sampled it: vllm, torch, openai, scripted, or the imported format"),
        Column("temperature", F32, "sampling temperature; null where the engine has none"),
        Column("top_p", F32, "nucleus bound"),
        Column("top_k", I32, "-1 is off"),
        Column("min_p", F32, "0 is off"),
        Column("max_tokens", I32, "limit on sampled tokens a model call"),
        Column("sampling_seed", I64, "seed given to the engine"),
        Column("logprobs_mode", STR, "processed: probabilities sampled from; raw: before temperature and filters"),
        Column("messages", MESSAGES, "everything after the prompt: assistant and tool messages in order"),
        Column(
            "token_ids",
            pa.list_(I32),
            "everything after the prompt, tool results included; exactly what the engine saw",
            zstd=True,
        ),
        Column("loss_mask", pa.list_(pa.int8()), "parallel to token_ids: 1 where the policy sampled the token"),
        Column("logprobs", pa.list_(F32), "one per sampled token (loss_mask 1), in order, from the engine", zstd=True),
        Column("n_prompt_tokens", I32, "length of the prompt in tokens"),
        Column("n_tokens", I32, "length of token_ids"),
        Column("n_sampled_tokens", I32, "sum of loss_mask"),
        Column("n_turns", I32, "model calls made"),
        Column("n_tool_calls", I32, "tool calls the policy made"),
        Column("n_tool_errors", I32, "tool calls answered by an error"),
        Column("n_parse_failures", I32, "tool calls whose text or arguments did not parse"),
        Column("reward", F32, "the environment's verdict at collection time; null when there is none"),
        Column("reward_components", COMPONENTS, "named parts of the reward"),
        Column("passed", BOOL, "whether the verdict counts as solved"),
        Column("scorer", STR, "who gave the verdict"),
        Column("scorer_version", STR, "and in which version"),
        Column("status", STR, "completed, truncated, error, timeout or aborted"),
        Column("stop_reason", STR, "why the episode ended: stop, length, max_turns, …"),
        Column(
            "error_type",
            STR,
            "the boundary that failed: engine, tool, environment, verifier, template, …; null if none",
        ),
        Column("error_message", STR, "one line"),
        Column("prefix_ok", BOOL, "every prompt began with all tokens before it; null without tokens"),
        Column("gaps", pa.list_(STR), "what the source did not tell: no_token_ids, no_task, …"),
        Column("extra", STR, "JSON of what an import brought that no column represents"),
        Column("started_at", TIME, "wall clock at the first model call"),
        Column("duration_s", F64, "seconds from start to verdict"),
        Column("generate_s", F64, "seconds spent waiting for the policy"),
        Column("tool_s", F64, "seconds spent in tools"),
        Column("verify_s", F64, "seconds spent in the verifier"),
        Column("n_retries", I32, "requests to the policy that were sent again; null when not observed"),
    ),
    "exactly once: appended under the run's lease, inserted if absent when in doubt",
)

PROMPTS = Table(
    "prompts",
    "One distinct prompt: messages and ordered tools, addressed by content.",
    "prompt_id",
    (
        Column("prompt_id", STR, "hash of messages and tools"),
        Column("messages", MESSAGES, "system and user messages"),
        Column("tools", STR, "JSON list of tool schemas in OpenAI chat form, in order"),
    ),
)

PROMPT_TOKENS = Table(
    "prompt_tokens",
    "The token ids of a prompt under one tokenizer and template.",
    "row_id",
    (
        Column("row_id", STR, "H(prompt_id, tokenizer_hash, template_hash)"),
        Column("prompt_id", STR, "row of `prompts`"),
        Column("tokenizer_hash", STR, "as in `rollouts`"),
        Column("template_hash", STR, "as in `rollouts`"),
        Column("token_ids", pa.list_(I32), "the rendered prompt up to the first sampled token", zstd=True),
    ),
)

TASKS = Table(
    "tasks",
    "One task: environment, prompt, ground truth, initial state, split, category.",
    "task_id",
    (
        Column("task_id", STR, "hash of environment, prompt_id, ground truth and state_hash"),
        Column("environment", STR, "name of the environment"),
        Column("prompt_id", STR, "row of `prompts`"),
        Column("ground_truth", STR, "JSON the scorer needs; null when the source has none"),
        Column("state_hash", STR, "hash of the initial state; null when the environment needs none"),
        Column("state", STR, "JSON of the initial state where the environment does not hold it itself"),
        Column("split", STR, "train, validation or test"),
        Column("category", STR, "kind of task"),
        Column("difficulty", F32, "the generator's own label; null when unknown"),
        Column("source_key", STR, "the row's key in its source"),
        Column("extra", STR, "JSON of the source's other fields"),
        Column("created_at", TIME, "when it entered the store"),
    ),
)

BLOBS = Table(
    "blobs",
    "An image or other large part, addressed by content (reserved).",
    "blob_id",
    (
        Column("blob_id", STR, "SHA-256 of the data"),
        Column("media_type", STR, "MIME type"),
        Column("data", pa.large_binary(), "the bytes"),
    ),
)

SCORES = Table(
    "scores",
    "One verdict of one scorer version on one rollout.",
    "row_id",
    (
        Column("row_id", STR, "H(rollout_id, scorer, scorer_version, config_hash)"),
        Column("rollout_id", STR, "row of `rollouts`"),
        Column("scorer", STR, "name of the scorer"),
        Column("scorer_version", STR, "its version"),
        Column("config_hash", STR, "hash of its settings"),
        Column("reward", F32, "the verdict; null when it could not be scored"),
        Column("passed", BOOL, "whether the verdict counts as solved"),
        Column("components", COMPONENTS, "named parts"),
        Column("error_type", STR, "why it could not be scored"),
        Column("run_id", STR, "the run that scored it"),
        Column("created_at", TIME, "when"),
    ),
    "inserted if absent: the first verdict of a scorer version under one configuration stays",
)

RUN_EVENTS = Table(
    "run_events",
    "Something that happened to a run; the view `runs` folds them into one row each.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, sequence)"),
        Column("run_id", STR, "the run"),
        Column("sequence", I64, "order of the run's events, from 0"),
        Column("event", STR, "started, resumed, finished, failed, aborted, or note"),
        Column("kind", STR, "collect, import, rescore, build, sft, dpo, grpo, replay, eval or clone; on `started`"),
        Column("name", STR, "the name its user gave it; on `started`"),
        Column("incarnation", I32, "how often the run was started before this event; 0 at first"),
        Column("payload", STR, "JSON: configuration on `started`, summary on `finished`, message on `failed`"),
        Column("created_at", TIME, "when"),
    ),
    "inserted if absent: a number belongs to the event that had it first, and the next one takes the next number",
)

METRICS = Table(
    "metrics",
    "One number of one step.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, incarnation, step, name)"),
        Column("run_id", STR, "the run"),
        Column("incarnation", I32, "as in run_events"),
        Column("step", I32, "optimizer step, from 1; 0 is before training"),
        Column("name", STR, "train/reward, val/accuracy, …"),
        Column("value", F64, "the number"),
        Column("created_at", TIME, "when"),
    ),
    "appended, inserted if absent when in doubt; a run that is started again writes under its new incarnation, and the last one counts",
)

BATCH_PLANS = Table(
    "batch_plans",
    "What one optimizer step will consume, in order; written before the step.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, step)"),
        Column("run_id", STR, "the run"),
        Column("step", I32, "the step this batch makes, from 1"),
        Column("policy_version", I32, "version of the weights before the step"),
        Column(
            "entries",
            pa.list_(
                pa.struct(
                    [
                        ("rollout_id", STR),
                        ("group_id", STR),
                        ("reward", F32),
                        ("advantage", F32),
                        ("kept", BOOL),
                        ("reason", STR),
                        ("micro_batch", I32),
                    ]
                )
            ),
            "in training order; left-out rollouts have kept=false, a reason, a null micro_batch; a null advantage was never assigned",
        ),
        Column("seed", I64, "seed of the micro-batch order"),
        Column("settings", STR, "JSON of what the step depends on: algorithm, loss, learning rate"),
        Column("created_at", TIME, "when"),
    ),
    "inserted if absent: the first plan of a step stays, and the step is made from it",
)

TRAINING_OUTCOMES = Table(
    "training_outcomes",
    "What became of each trained rollout.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, incarnation, step, rollout_id, use_index)"),
        Column("run_id", STR, "the run"),
        Column("incarnation", I32, "as in run_events"),
        Column("step", I32, "the optimizer step"),
        Column("rollout_id", STR, "row of `rollouts`"),
        Column("use_index", I32, "0 for the first pass over the rollout in this step"),
        Column(
            "trainer_logprobs",
            pa.list_(F32),
            "parallel to rollouts.logprobs: the learner's, before the update",
            zstd=True,
        ),
        Column("ratio_mean", F32, "mean importance ratio over sampled tokens"),
        Column("clipped_share", F32, "share of sampled tokens whose ratio was clipped"),
        Column("created_at", TIME, "when"),
    ),
    "appended under the run's incarnation; where a step was taken in several, the last one counts",
)

DATASETS = Table(
    "datasets",
    "One version of one training set: recipe, snapshot, fingerprint, ordered references.",
    "row_id",
    (
        Column("row_id", STR, "H(name, version)"),
        Column("name", STR, "the set's name"),
        Column("version", I32, "from 1"),
        Column("kind", STR, "sft, dpo or grpo"),
        Column("snapshot", STR, "name of the snapshot it refers into"),
        Column("scorer", STR, "whose verdicts it used; `collected` means rollouts.reward"),
        Column("recipe", STR, "canonical JSON of the options, SQL text included"),
        Column("fingerprint", STR, "hash of kind, source versions, recipe and references"),
        Column("code_version", STR, "version of the builder"),
        Column(
            "rows",
            pa.list_(
                pa.struct(
                    [
                        ("rollout_id", STR),
                        ("task_id", STR),
                        ("branch", I32),
                        ("weight", F32),
                        ("role", STR),
                        ("row", I32),
                    ]
                )
            ),
            "ordered references: role is demo, chosen, rejected or prompt; `row` numbers the dataset row it belongs to",
        ),
        Column(
            "dropped", pa.list_(pa.struct([("id", STR), ("reason", STR)])), "every input that did not make it, and why"
        ),
        Column(
            "flagged",
            pa.list_(pa.struct([("id", STR), ("reference", STR), ("method", STR), ("score", F32)])),
            "tasks that are also in an evaluation set, left out or not: task_id, the case, text, calls or schemas, 0 to 1; null where nobody looked",
        ),
        Column("n_rows", I32, "dataset rows"),
        Column("counts", STR, "JSON: inputs, rows, tasks, and drops by reason"),
        Column("run_id", STR, "the build run"),
        Column("created_at", TIME, "when"),
    ),
    "inserted if absent: a version number belongs to the set that had it first",
)

CHECKPOINTS = Table(
    "checkpoints",
    "One saved policy.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, step, incarnation)"),
        Column("checkpoint_id", STR, "short id people type"),
        Column("run_id", STR, "the run that made it"),
        Column("step", I32, "optimizer steps taken"),
        Column("incarnation", I32, "as in run_events"),
        Column("path", STR, "folder that transformers and vLLM load"),
        Column(
            "weights_hash",
            STR,
            "SHA-256 over names, shapes and bytes of the tensors; equals rollouts.policy_id of what it samples",
        ),
        Column("parent_hash", STR, "weights hash the run started from"),
        Column("dataset", STR, "NAME@VERSION it was trained on; null when none"),
        Column("metrics", STR, "JSON of its metrics"),
        Column("created_at", TIME, "when"),
    ),
)

EVALUATIONS = Table(
    "evaluations",
    "One evaluated case.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, benchmark, category, case_id, mode, sample)"),
        Column("run_id", STR, "the eval run"),
        Column("benchmark", STR, "bfcl, or the environment's name"),
        Column("category", STR, "of the benchmark"),
        Column("case_id", STR, "id of the case; a task_id for environments"),
        Column("mode", STR, "greedy or sampled; fc or prompt for bfcl"),
        Column("sample", I32, "from 0"),
        Column("policy_id", STR, "as in rollouts"),
        Column(
            "passed", BOOL, "the verdict; null for what nothing judges, as the sessions before BFCL's memory questions"
        ),
        Column("score", F32, "the verdict as a number"),
        Column("rollout_id", STR, "the rollout, where there is one"),
        Column("prompt", STR, "JSON of what was asked, where there is no rollout"),
        Column("output", STR, "what the policy answered"),
        Column("error_type", STR, "why it failed, in the benchmark's words"),
        Column("created_at", TIME, "when"),
    ),
)

SNAPSHOTS = Table(
    "snapshots",
    "A name for one version of every table.",
    "name",
    (
        Column("name", STR, "letters, digits, '.', '-', '_'"),
        Column("note", STR, "why it was taken"),
        Column("versions", pa.list_(pa.struct([("table", STR), ("version", I64)])), "the Lance version of each table"),
        Column("run_id", STR, "the run that took it; null for a person"),
        Column("created_at", TIME, "when"),
    ),
    "inserted if absent: a name is taken once",
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        ROLLOUTS, PROMPTS, PROMPT_TOKENS, TASKS, BLOBS, SCORES, RUN_EVENTS, METRICS, BATCH_PLANS,
        TRAINING_OUTCOMES, DATASETS, CHECKPOINTS, EVALUATIONS, SNAPSHOTS,
    )
}  # fmt: skip

STATUSES = ("completed", "truncated", "error", "timeout", "aborted")
RUN_KINDS = ("collect", "import", "rescore", "build", "sft", "dpo", "grpo", "replay", "eval", "clone")
