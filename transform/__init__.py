"""Builds datasets of kind `sft`, `dpo` and `grpo` from rollouts, with a reason for everything that is left out."""
