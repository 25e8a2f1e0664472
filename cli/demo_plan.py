"""What the demo does: its stages and the command lines of each. Typing them gives the same store."""

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
"""Cases of each BFCL category: the demo shows that the benchmark runs, not how good a tiny model is at it."""


@dataclass(frozen=True)
class Step:
    """One stage.

    Attributes:
        stage: Its name in summary.json.
        says: What happens and why, in a sentence.
        commands: Arguments of `rollhouse`, one list a command.
    """

    stage: str
    says: str
    commands: tuple[list[str], ...]


def model_of(policy: str) -> str:
    """What `--model` takes for one of the four policies: a run's name stands for its last checkpoint."""
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
            "A script plays the tasks and often stops before its last call, so that rewards vary.",
            (["collect", "--engine", "scripted", "--mistake-rate", "0.4", "--run", "scripted", "--snapshot", "logs", *playing],),
        ),
        Step("base", "The base policy: a tiny model cloned from such logs, mistakes included.", (["train", "tiny"],)),
        Step(
            "sft",
            "Learn from the rollouts that were rewarded.",
            (
                ["dataset", "build", "sft", "demos", "--from", "logs", *at],
                ["train", "sft", "--config", "tiny-sft", "--dataset", "demos", "--model", BASE, "--run", "sft", f"sft.seed={seed}", *at],
            ),
        ),
        Step(
            "collect",
            "The base policy plays, several rollouts a task, through vLLM in a Ray actor.",
            (["collect", *vllm, "--model", BASE, "--limit", "240", "--num-repeats", "4", "--run", "base", "--snapshot", "base", *playing],),
        ),
        Step(
            "dpo",
            "Prefer a solved rollout to a failed one of the same task.",
            (
                ["dataset", "build", "dpo", "pairs", "--from", "base", "--run", "base", *at],
                ["train", "dpo", "--config", "tiny-dpo", "--dataset", "pairs", "--model", BASE, "--run", "dpo", f"dpo.seed={seed}", *at],
            ),
        ),
        Step(
            "grpo",
            "Tasks that are sometimes solved, groups of rollouts, their advantages, one step at a time.",
            (
                ["dataset", "build", "grpo", "prompts", "--from", "base", "--run", "base", *at],
                ["train", "grpo", "--config", "tiny-grpo", "--dataset", "prompts", "--model", BASE, "--run", "grpo", f"grpo.seed={seed}", f"grpo.max_num_steps={GRPO_STEPS}", *at],
            ),
        ),
        Step("evaluate", "The four policies on held-out tasks, at temperature 1 and greedily.", tuple(evaluations(seed, store))),
        Step(
            "bfcl",
            "A slice of the Berkeley Function-Calling Leaderboard, whatever the score of so small a model.",
            (["eval", "bfcl", *vllm, "--model", "grpo", "--limit", str(BFCL_CASES), "--max-new-tokens", "64", "--run", "bfcl", *at],),
        ),
        Step(
            "lineage",
            "What made the last checkpoint, and a report.",
            (
                ["lineage", LAST, *at],
                ["report", "sft", "dpo", "grpo", *(eval_run(policy, mode) for policy in POLICIES for mode in MODES), "bfcl", "--lineage", LAST, "--title", "rollhouse demo", "--out", str(store / "report.html"), *at],
            ),
        ),
    ]  # fmt: skip


def eval_run(policy: str, mode: str) -> str:
    """The run that evaluates a policy."""
    return f"eval-{policy}-{mode}"


def evaluations(seed: int, store: Path) -> list[list[str]]:
    """One command a policy and mode; a policy's two follow each other, so that its weights are loaded once."""
    at = ["--seed", str(seed), "--store", str(store)]
    return [
        ["eval", "env", "--env", ENV, "--split", "validation", "--engine", "vllm", "--model", model_of(policy), "--mode", mode, *more, "--run", eval_run(policy, mode), *at]
        for policy in POLICIES
        for mode, more in MODES.items()
    ]  # fmt: skip
