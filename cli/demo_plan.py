"""The stages of the demo and the command lines of each. Typing them gives the same store."""

from dataclasses import dataclass
from pathlib import Path

ENV = "workplace-mini"
POLICIES = ("base", "sft", "dpo", "grpo")
MODES = {"sampled": ["--num-repeats", "2"], "greedy": []}
BASE = "tiny-base"
GRPO_STEPS = 20
LAST = f"grpo/step_{GRPO_STEPS}"
"""The final checkpoint."""
BFCL_CASES = 4
"""Cases per BFCL category. The demo shows that the benchmark runs; the score of a tiny model means little."""


@dataclass(frozen=True)
class Step:
    """One stage.

    Attributes:
        stage: Its name in summary.json.
        text: What happens, in a sentence.
        commands: Arguments of `rollhouse`, one list a command.
    """

    stage: str
    text: str
    commands: tuple[list[str], ...]


def model_of(policy: str) -> str:
    """The value of `--model` for one of the four policies; the name of a run stands for its last checkpoint."""
    return BASE if policy == "base" else policy


def plan(seed: int, store: Path) -> list[Step]:
    """The demo's steps, in order."""
    at, of_seed = ["--store", str(store)], ["--seed", str(seed)]
    playing = ["--env", ENV, *of_seed, *at]
    vllm = ["--engine", "vllm"]
    return [
        Step("tasks", "Generate tasks from a seed.", (["tasks", "generate", *playing],)),
        Step(
            "scripted",
            "A script plays the tasks and often omits its last call, so that rewards vary.",
            (["collect", "--engine", "scripted", "--mistake-rate", "0.4", "--run", "scripted", "--snapshot", "logs", *playing],),
        ),
        Step("base", "Make the base policy: a tiny model cloned from such rollouts, mistakes included.", (["train", "tiny"],)),
        Step(
            "sft",
            "Fine-tune on rewarded rollouts.",
            (
                ["dataset", "build", "sft", "demos", "--from", "logs", *at],
                ["train", "sft", "--config", "tiny-sft", "--dataset", "demos", "--model", BASE, "--run", "sft", f"sft.seed={seed}", *at],
            ),
        ),
        Step(
            "collect",
            "Collect several rollouts per task of the base policy, with vLLM in a Ray actor.",
            (["collect", *vllm, "--model", BASE, "--limit", "240", "--num-repeats", "4", "--run", "base", "--snapshot", "base", *playing],),
        ),
        Step(
            "dpo",
            "Train on pairs of a solved and a failed rollout of one task.",
            (
                ["dataset", "build", "dpo", "pairs", "--from", "base", "--run", "base", *at],
                ["train", "dpo", "--config", "tiny-dpo", "--dataset", "pairs", "--model", BASE, "--run", "dpo", f"dpo.seed={seed}", *at],
            ),
        ),
        Step(
            "grpo",
            "Train online on tasks that are sometimes solved.",
            (
                ["dataset", "build", "grpo", "prompts", "--from", "base", "--run", "base", *at],
                ["train", "grpo", "--config", "tiny-grpo", "--dataset", "prompts", "--model", BASE, "--run", "grpo", f"grpo.seed={seed}", f"grpo.max_num_steps={GRPO_STEPS}", "grpo.val_period=5", "grpo.max_val_samples=60", *at],
            ),
        ),
        Step("evaluate", "Evaluate the four policies on held-out tasks, at temperature 1 and greedily.", tuple(evaluations(seed, store))),
        Step(
            "bfcl",
            "Evaluate on a slice of the Berkeley Function-Calling Leaderboard.",
            (["eval", "bfcl", *vllm, "--model", "grpo", "--limit", str(BFCL_CASES), "--max-new-tokens", "64", "--run", "bfcl", *at],),
        ),
        Step(
            "lineage",
            "Show the origin of the last checkpoint, and write a report.",
            (
                ["lineage", LAST, *at],
                ["report", "sft", "dpo", "grpo", *(eval_run(policy, mode) for policy in POLICIES for mode in MODES), "bfcl", "--lineage", LAST, "--title", "rollhouse demo", "--out", str(store / "report.html"), *at],
            ),
        ),
    ]  # fmt: skip


def eval_run(policy: str, mode: str) -> str:
    """Name of the run that evaluates a policy."""
    return f"eval-{policy}-{mode}"


def evaluations(seed: int, store: Path) -> list[list[str]]:
    """One command per policy and mode. The two modes of a policy are adjacent, so that its weights are loaded once."""
    at = ["--seed", str(seed), "--store", str(store)]
    return [
        ["eval", "env", "--env", ENV, "--split", "validation", "--engine", "vllm", "--model", model_of(policy), "--mode", mode, *more, "--run", eval_run(policy, mode), *at]
        for policy in POLICIES
        for mode, more in MODES.items()
    ]  # fmt: skip
