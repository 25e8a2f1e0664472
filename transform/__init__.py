"""Rollouts to datasets: `sft`, `dpo` and `grpo`, with a reason for everything left out."""
