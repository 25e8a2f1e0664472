"""Training: GRPO on Ray and vLLM, SFT and DPO with TRL, checkpoints and tracking."""
