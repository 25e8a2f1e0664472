"""GRPO on Ray and vLLM, SFT and DPO through TRL, checkpoints and tracking."""
