"""Online GRPO: advantages, loss, learner, loop."""
