"""An OpenAI-compatible server over any policy; the calls of an agent become rollouts."""
