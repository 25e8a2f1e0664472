"""Programs that play tasks: agents that nobody here wrote, against the run's own engine."""
