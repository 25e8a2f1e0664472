"""How good the policy is on held-out tasks, measured between two steps."""

from ...eval.environment import evaluate_policy
from ...store.runs import start_run
from .settings import playing, sampling
from .setup import Parts


def validate(parts: Parts, step: int) -> dict[str, float]:
    """Pass rate at temperature 1 on the validation tasks; the rollouts belong to a run `<run>-val-<step>` of kind eval."""
    config = parts.config
    tasks = list(parts.environment.tasks("validation"))[: config.grpo.max_val_samples]
    payload = {"run": parts.run.run_id, "step": step, "model_hash": None}
    with start_run(parts.store, "eval", f"{parts.run.run_id}-val-{step}", payload) as run:
        summary = evaluate_policy(
            parts.store,
            run,
            parts.environment,
            parts.policy,
            tasks,
            mode="sampled",
            sampling=sampling(config, step),
            **playing(config),
        )
        run.finish({"pass_rate": summary.pass_rate, "stderr": summary.stderr, "n": summary.n})
    return {"val/accuracy": summary.pass_rate, "val/stderr": summary.stderr, "val/n": float(summary.n)}
