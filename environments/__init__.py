"""Tasks, sessions, tools and scorers."""
