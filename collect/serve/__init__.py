"""An OpenAI-compatible server over any engine, which records what an agent asks it as rollouts."""
