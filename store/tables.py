"""Every table of a store. Null means not observed, empty means observed and none.

Rollouts and what they refer to are defined by their classes; the other tables by lists of columns.
"""

import pyarrow as pa

from .rollout import ROLLOUTS
from .schema import Column, Table
from .task import PROMPT_TOKENS, PROMPTS, SCORES, TASKS

STR, I32, I64, F32, F64 = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64()
BOOL, TIME = pa.bool_(), pa.timestamp("us", tz="UTC")

_RUN_ID = Column("run_id", STR, "the run that wrote it")
_INCARNATION = Column("incarnation", I32, "number of earlier starts of the run")
_CREATED_AT = Column("created_at", TIME, "time of writing")
COMMON = (_RUN_ID, _INCARNATION, _CREATED_AT)
"""Columns of one meaning in several tables."""

BLOBS = Table(
    "blobs",
    "An image or other large part (reserved).",
    "blob_id",
    (
        Column("blob_id", STR, "SHA-256 of the data"),
        Column("media_type", STR, "MIME type"),
        Column("data", pa.large_binary(), "the bytes"),
    ),
)

RUN_EVENTS = Table(
    "run_events",
    "An event of a run; the view `runs` has a row per run.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, sequence)"),
        _RUN_ID,
        Column("sequence", I64, "order within the run, from 0"),
        Column("event", STR, "started, resumed, finished, failed, aborted, or note"),
        Column("kind", STR, "collect, import, rescore, build, sft, dpo, grpo, replay, eval or clone; on `started`"),
        Column("name", STR, "its name; on `started`"),
        _INCARNATION,
        Column("payload", STR, "JSON: configuration on `started`, summary on `finished`, message on `failed`"),
        _CREATED_AT,
    ),
    "inserted if absent; a later event takes the next number",
)

METRICS = Table(
    "metrics",
    "One number of one step.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, incarnation, step, name)"),
        _RUN_ID,
        _INCARNATION,
        Column("step", I32, "optimizer step, from 1; 0 is before training"),
        Column("name", STR, "train/reward, val/accuracy, …"),
        Column("value", F64, "the number"),
        _CREATED_AT,
    ),
    "appended, inserted if absent after a failed commit; the last incarnation counts",
)

BATCH_PLANS = Table(
    "batch_plans",
    "The batch of one optimizer step, written before it.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, step)"),
        _RUN_ID,
        Column("step", I32, "from 1"),
        Column("policy_version", I32, "before the step"),
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
            "in training order; if left out: kept false, a reason, micro_batch null; advantage null if never assigned",
        ),
        Column("seed", I64, "seed of the micro-batch order"),
        Column("settings", STR, "JSON of algorithm, loss, learning rate"),
        _CREATED_AT,
        Column(
            "turn_advantages",
            pa.list_(pa.list_(F32)),
            "parallel to entries: advantage of each turn; null unless advantages are by turn",
        ),
        Column(
            "teacher_logprobs",
            pa.list_(pa.list_(F32)),
            "parallel to entries: the teacher's logprob of each sampled token; null without a teacher",
            zstd=True,
        ),
    ),
)

TRAINING_OUTCOMES = Table(
    "training_outcomes",
    "The outcome of each trained rollout.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, incarnation, step, rollout_id, use_index)"),
        _RUN_ID,
        _INCARNATION,
        Column("step", I32, "the optimizer step"),
        Column("rollout_id", STR, "row of `rollouts`"),
        Column("use_index", I32, "pass over the rollout in this step, from 0"),
        Column(
            "trainer_logprobs",
            pa.list_(F32),
            "parallel to rollouts.logprobs, before the update",
            zstd=True,
        ),
        Column("ratio_mean", F32, "mean importance ratio of sampled tokens"),
        Column("clipped_share", F32, "share of sampled tokens with a clipped ratio"),
        _CREATED_AT,
        Column(
            "entropies",
            pa.list_(F32),
            "parallel to trainer_logprobs: entropy of the learner's distribution at each, in nats; null if not computed",
            zstd=True,
        ),
    ),
    "appended; the last incarnation of a step counts",
)

DATASETS = Table(
    "datasets",
    "One version of one training set.",
    "row_id",
    (
        Column("row_id", STR, "H(name, version)"),
        Column("name", STR, "name of the set"),
        Column("version", I32, "from 1"),
        Column("kind", STR, "sft, dpo or grpo"),
        Column("snapshot", STR, "snapshot it refers into"),
        Column("scorer", STR, "scorer of its verdicts; `collected`: rollouts.reward"),
        Column("recipe", STR, "JSON of the options and SQL"),
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
            "ordered references; role: demo, chosen, rejected or prompt; row: number of the dataset row",
        ),
        Column("dropped", pa.list_(pa.struct([("id", STR), ("reason", STR)])), "inputs left out"),
        Column(
            "flagged",
            pa.list_(pa.struct([("id", STR), ("reference", STR), ("method", STR), ("score", F32)])),
            "tasks found in an evaluation set: task_id; case; text, calls or schemas; 0 to 1. Null if not compared",
        ),
        Column("n_rows", I32, "dataset rows"),
        Column("counts", STR, "JSON: inputs, rows, tasks, drops by reason"),
        _RUN_ID,
        _CREATED_AT,
    ),
)

CHECKPOINTS = Table(
    "checkpoints",
    "One saved policy.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, step, incarnation)"),
        Column("checkpoint_id", STR, "short id, RUN/step_N"),
        _RUN_ID,
        Column("step", I32, "optimizer steps taken"),
        _INCARNATION,
        Column("path", STR, "model folder, relative to the store; absolute if elsewhere"),
        Column(
            "weights_hash",
            STR,
            "SHA-256 over names, shapes and bytes of the tensors; rollouts.policy_id of its rollouts",
        ),
        Column("parent_hash", STR, "weights hash of the run's first model"),
        Column("dataset", STR, "NAME@VERSION; null if none"),
        Column("metrics", STR, "JSON"),
        _CREATED_AT,
    ),
)

EVALUATIONS = Table(
    "evaluations",
    "One evaluated case.",
    "row_id",
    (
        Column("row_id", STR, "H(run_id, benchmark, category, case_id, mode, sample)"),
        _RUN_ID,
        Column("benchmark", STR, "bfcl, or the environment's name"),
        Column("category", STR, "of the benchmark"),
        Column("case_id", STR, "for environments the task_id"),
        Column("mode", STR, "greedy or sampled; fc or prompt for bfcl"),
        Column("sample", I32, "from 0"),
        Column("policy_id", STR, "as in rollouts"),
        Column("passed", BOOL, "null if not judged (sessions of BFCL's memory)"),
        Column("score", F32, "verdict as a number"),
        Column("rollout_id", STR, "null if none"),
        Column("prompt", STR, "JSON of the prompt, without a rollout"),
        Column("output", STR, "answer of the policy"),
        Column("error_type", STR, "the benchmark's error type"),
        _CREATED_AT,
    ),
)

SNAPSHOTS = Table(
    "snapshots",
    "A name for one version of every table.",
    "name",
    (
        Column("name", STR, "letters, digits, '.', '-', '_'"),
        Column("note", STR, "note of the user"),
        Column("versions", pa.list_(pa.struct([("table", STR), ("version", I64)])), "Lance version of each table"),
        Column("run_id", STR, "null if taken by a user"),
        _CREATED_AT,
    ),
)

LABELS = Table(
    "labels",
    "What a person said about a rollout or a message; the view `current_labels` has those that hold.",
    "row_id",
    (
        Column("row_id", STR, "H(rollout_id, message, label, author, created_at)"),
        Column("rollout_id", STR, "row of `rollouts`"),
        Column("message", I32, "position in rollouts.messages, from 0; null for the whole rollout"),
        Column("label", STR, "a tag, `star` or `note`"),
        Column("note", STR, "text of a note; null for others"),
        Column("author", STR, "who gave it"),
        Column("removed", BOOL, "whether this row takes the label away"),
        _CREATED_AT,
    ),
    "appended; the newest row of a rollout, message, label and author counts",
    later=True,
)

TOKENIZERS = Table(
    "tokenizers",
    "A tokenizer that stored tokens are of; the view `tokens` has their text.",
    "tokenizer_hash",
    (
        Column("tokenizer_hash", STR, "as in `rollouts`: SHA-256 of the state, 16 hex digits"),
        Column("state", STR, "JSON as in tokenizer.json, without padding and truncation", zstd=True),
        _CREATED_AT,
    ),
    later=True,
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        ROLLOUTS, PROMPTS, PROMPT_TOKENS, TASKS, BLOBS, SCORES, RUN_EVENTS, METRICS, BATCH_PLANS,
        TRAINING_OUTCOMES, DATASETS, CHECKPOINTS, EVALUATIONS, LABELS, TOKENIZERS, SNAPSHOTS,
    )
}  # fmt: skip

RUN_KINDS = ("collect", "import", "rescore", "build", "sft", "dpo", "grpo", "replay", "eval", "clone")
