"""Every table of a store. A list is parallel to what its text says; null means not observed, empty means there was none.

Rollouts and what they refer to are defined by their classes; the other tables by lists of columns.
"""

import pyarrow as pa

from .rollout import ROLLOUTS
from .schema import Column, Table
from .task import PROMPT_TOKENS, PROMPTS, SCORES, TASKS

STR, I32, I64, F32, F64 = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64()
BOOL, TIME = pa.bool_(), pa.timestamp("us", tz="UTC")

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
        Column(
            "path",
            STR,
            "folder that transformers and vLLM load, relative to the store; absolute when it lies elsewhere",
        ),
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

RUN_KINDS = ("collect", "import", "rescore", "build", "sft", "dpo", "grpo", "replay", "eval", "clone")
